// The lightning indexer (ops/reference/index.py): every visible key is scored against a query's heads, and the best k
// stay. sum_h w_h relu(q_h . key); ties go to the earlier entry. 64 keys are decoded and laid out once for all of a
// task's queries.
#pragma once

#include <cmath>

#include "rows.h"
#include "simd.h"

namespace wf {

constexpr int KEYS = 64;  // scored at a time

// Sizes have been checked.
struct Index {
    int64_t queries, heads, dim;
    const uint16_t *q;        // [queries, heads, dim]
    const uint16_t *weights;  // [queries, heads]
    Rows keys;
    int64_t first, ratio;  // query i stands at position first + i: it sees (first + i + 1) / ratio entries
    int64_t k;
    bool released;  // dots, their products with the weights and the sum are rounded to bfloat16
    int32_t *out;   // [queries, k]: best first, then -1

    WF_INLINE int64_t visible(int64_t query) const { return (first + query + 1) / ratio; }
    WF_INLINE int64_t width() const { return padded(dim, 32); }
};

// The k best of a stream of scores, as words that sort: the score's bits above, the entry's number inverted below.
struct Best {
    uint64_t *words;  // 2 * k + KEYS
    int64_t k, count;
    uint64_t least;  // what is not above it is not among the k best
    float floor;     // its score

    static WF_INLINE int64_t capacity(int64_t k) { return 2 * k + KEYS; }

    static WF_INLINE uint64_t word(float score, int64_t entry) {
        uint32_t bits = float_to_bits(score + 0.0f);  // -0 and 0 tie
        bits = bits & 0x80000000 ? ~bits : bits | 0x80000000;
        return uint64_t(bits) << 32 | uint32_t(~uint32_t(entry));
    }
    static WF_INLINE float score(uint64_t word) {
        const uint32_t bits = uint32_t(word >> 32);
        return bits_to_float(bits & 0x80000000 ? bits & 0x7FFFFFFF : ~bits);
    }
    static WF_INLINE int32_t entry(uint64_t word) { return int32_t(~uint32_t(word)); }

    WF_INLINE void add(uint64_t word) {
        if (word <= least) return;
        words[count++] = word;
    }
    // After at most KEYS additions.
    WF_INLINE void shrink() {
        if (count >= 2 * k) cut();
    }
    // Compiled once, in index.cpp: the sort's code may not be an instruction set's.
    void cut();
    void write(int32_t *out);
};

template <class S>
struct IndexKernel {
    using F = typename S::F;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, V = S::TILE_VECTORS;

    const Index &job;
    const int64_t width, words;
    uint16_t *rows;  // [KEYS, width]
    uint32_t *kt;    // [words, KEYS]
    uint32_t *q;     // [heads, words] of a query
    float *weights;  // [heads]

    static int64_t bytes(const Index &job) {
        const int64_t width = job.width(), H = padded(job.heads, 16);
        return padded(2 * KEYS * width, 64) + 2 * width * KEYS + padded(2 * H * width, 64) + 4 * H;
    }

    IndexKernel(const Index &given, uint8_t *scratch) : job(given), width(job.width()), words(width / 2) {
        const int64_t H = padded(job.heads, 16);
        rows = reinterpret_cast<uint16_t *>(scratch);
        scratch += padded(2 * KEYS * width, 64);
        kt = reinterpret_cast<uint32_t *>(scratch);
        scratch += 2 * width * KEYS;
        q = reinterpret_cast<uint32_t *>(scratch);
        scratch += padded(2 * H * width, 64);
        weights = reinterpret_cast<float *>(scratch);
    }

    void pack(int64_t first, int64_t count) {
        if (count < KEYS || width > job.dim) std::memset(rows, 0, size_t(2 * KEYS * width));
        for (int64_t i = 0; i < count; i++) decode_row<S>(job.keys, first + i, rows + i * width);
        const uint32_t *pairs = reinterpret_cast<const uint32_t *>(rows);
        for (int64_t key = 0; key < KEYS; key += L)
            for (int64_t k = 0; k < words; k += L)
                S::transpose(pairs + key * words + k, words, kt + k * KEYS + key, KEYS);
    }

    template <int N>
    WF_INLINE void heads(const uint32_t *queries, int64_t head, int64_t key, F (&scores)[V]) const {
        F c[N][V];
        for (int r = 0; r < N; r++)
            for (int j = 0; j < V; j++) c[r][j] = F{};
        product<S, N, V>(queries + head * words, words, kt + key, KEYS, words, c);
        for (int r = 0; r < N; r++) {
            const F weight = S::all(weights[head + r]);
            for (int j = 0; j < V; j++) {
                if (job.released) scores[j] = scores[j] + S::rounded(S::max(S::rounded(c[r][j]), F{}) * weight);
                else scores[j] = S::fma(S::max(c[r][j], F{}), weight, scores[j]);
            }
        }
    }

    void load_query(int64_t query) {
        const uint16_t *mine = job.q + query * job.heads * job.dim;
        if (width > job.dim) std::memset(q, 0, size_t(2 * job.heads * width));
        for (int64_t h = 0; h < job.heads; h++) std::memcpy(q + h * words, mine + h * job.dim, size_t(2 * job.dim));
        for (int64_t h = 0; h < job.heads; h++) weights[h] = bf16_to_float(job.weights[query * job.heads + h]);
    }

    // Scores of the packed keys against the loaded query; returns the largest.
    float score(float *scores) const {
        F most = S::all(-INFINITY);
        for (int64_t key = 0; key < KEYS; key += V * L) {
            F sums[V];
            for (int j = 0; j < V; j++) sums[j] = F{};
            by_tiles<R>(job.heads, [&](auto n, int64_t h) { heads<n>(q, h, key, sums); });
            for (int j = 0; j < V; j++) {
                const F value = job.released ? S::rounded(sums[j]) : sums[j];
                S::store(scores + key + j * L, value);
                most = S::max(value, most);
            }
        }
        return S::largest(most);
    }

    // Entries first .. end of queries begin .. stop; `best` has one for each query.
    void run(int64_t begin, int64_t stop, int64_t first, int64_t end, Best *best) {
        alignas(64) float scores[KEYS];
        for (int64_t key = first; key < end; key += KEYS) {
            const int64_t count = end - key < KEYS ? end - key : KEYS;
            pack(key, count);
            for (int64_t query = begin; query < stop; query++) {
                int64_t seen = job.visible(query) - key;
                if (seen <= 0) continue;
                seen = seen < count ? seen : count;
                if (stop - begin > 1 || key == first) load_query(query);
                Best &mine = best[query - begin];
                // entries come in ascending order: one that only equals the least of the best is not among them
                if (score(scores) <= mine.floor) continue;
                for (int64_t i = 0; i < seen; i++) mine.add(Best::word(scores[i], key + i));
                mine.shrink();
            }
        }
    }
};

}  // namespace wf
