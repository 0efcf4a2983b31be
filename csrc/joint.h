// Attention of whole sequences in training, window and entries and sink in one softmax, and its gradient
// (ops/reference/joint_attention.py). A chunk of queries with all their heads, 128 rows or so, meets every key that one of
// them sees:
//
//   z = q . k / sqrt(c);   p = exp(z - lse);   o = p k
//   dp = grad_o . k;   dz = p (dp - sum p dp) / sqrt(c);   grad_q = dz k;   grad_k = dz^T q + p^T grad_o
//
// Products are over pairs of bfloat16: 64 keys at a time with their columns paired (for z and dp), 512 keys paired with
// their neighbours (for o and grad_q), rows paired with their neighbours (for grad_k).
#pragma once

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace wf {

constexpr int64_t JOINT_ROWS = 128, JOINT_QUERIES = 64, JOINT_KEYS = 64, JOINT_BLOCK = 512;

// One sequence. Query t sees tokens t - window + 1 .. t and, of the first (t + 1) / ratio entries, the chosen ones.
struct Joint {
    const uint16_t *q, *kv, *entries;  // [length, heads, dim], [length, dim], [num_entries, dim]
    const float *sink;
    int64_t length, num_entries, heads, dim, window, ratio;
    const uint8_t *chosen;  // [length, num_entries]; null: all
    uint16_t *o;
    float *lse;   // [length, heads]
    float *mass;  // [length, num_entries], or null
    const uint16_t *grad_o;
    uint16_t *grad_q;
    float *delta;  // [length, heads]: sum p dp

    WF_INLINE int64_t queries() const {  // of a chunk
        const int64_t fit = JOINT_ROWS / heads;
        return fit < 1 ? 1 : fit > JOINT_QUERIES ? JOINT_QUERIES : fit;
    }
    WF_INLINE int64_t chunks() const { return (length + queries() - 1) / queries(); }
};

// Queries first .. first + count, and the keys that one of them sees: tokens, filled up to a multiple of JOINT_KEYS, then
// entries, the same.
struct JointChunk {
    int64_t first, count, rows, token, tokens, entries, tokens_room, keys;

    WF_INLINE JointChunk(const Joint &job, int64_t number) {
        first = number * job.queries();
        count = job.length - first < job.queries() ? job.length - first : job.queries();
        rows = count * job.heads;
        token = first - job.window + 1 > 0 ? first - job.window + 1 : 0;
        tokens = first + count - token;
        entries = job.ratio ? (first + count) / job.ratio : 0;
        if (entries > job.num_entries) entries = job.num_entries;
        tokens_room = (tokens + JOINT_KEYS - 1) / JOINT_KEYS * JOINT_KEYS;
        keys = tokens_room + (entries + JOINT_KEYS - 1) / JOINT_KEYS * JOINT_KEYS;
    }
};

template <class S>
struct JointKernel {
    using F = typename S::F;
    using U = typename S::U;
    using V = Lanes<S>;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, T = S::TILE_VECTORS;
    static constexpr int64_t KEYS = JOINT_KEYS, BLOCK = JOINT_BLOCK;
    static_assert(KEYS % (T * L) == 0, "tiles are whole");

    const Joint &job;
    const int64_t words;  // of a row
    uint32_t *panel, *zipped, *rows_q, *rows_grad;
    uint16_t *zeros, *probs, *grads, *turned_probs, *turned_grads;
    float *scores, *sums, *slopes;

    // -- scratch

    static WF_INLINE int64_t most_rows(const Joint &job) { return (job.queries() * job.heads + 31) / 32 * 32; }
    static WF_INLINE int64_t most_keys(const Joint &job) {
        return job.window + job.queries() + job.num_entries + 2 * KEYS;
    }

    template <class Take>
    static WF_INLINE void lay(const Joint &job, const Take &take) {
        const int64_t rows = most_rows(job), keys = most_keys(job), dim = job.dim;
        take(0, 2 * KEYS * dim), take(1, 2 * BLOCK * dim), take(2, 2 * dim), take(3, 2 * rows * keys);
        take(4, 4 * rows * dim);
        take(5, 4 * rows * keys);
        if (!job.grad_q) return;
        take(11, 4 * rows * keys);
        take(6, 2 * rows * keys), take(7, 2 * rows * keys), take(8, 2 * rows * keys);
        take(9, 2 * rows * dim), take(10, 2 * rows * dim);
    }
    static int64_t bytes(const Joint &job) {
        int64_t all = 0;
        lay(job, [&](int, int64_t bytes) { all += (bytes + 63) / 64 * 64; });
        return all;
    }
    JointKernel(const Joint &given, uint8_t *scratch) : job(given), words(given.dim / 2) {
        uint8_t *at[12] = {};
        lay(job, [&](int which, int64_t bytes) { at[which] = scratch, scratch += (bytes + 63) / 64 * 64; });
        panel = reinterpret_cast<uint32_t *>(at[0]), zipped = reinterpret_cast<uint32_t *>(at[1]);
        zeros = reinterpret_cast<uint16_t *>(at[2]), probs = reinterpret_cast<uint16_t *>(at[3]);
        sums = reinterpret_cast<float *>(at[4]), scores = reinterpret_cast<float *>(at[5]);
        grads = reinterpret_cast<uint16_t *>(at[6]), turned_probs = reinterpret_cast<uint16_t *>(at[7]);
        turned_grads = reinterpret_cast<uint16_t *>(at[8]), rows_q = reinterpret_cast<uint32_t *>(at[9]);
        rows_grad = reinterpret_cast<uint32_t *>(at[10]), slopes = reinterpret_cast<float *>(at[11]);
        std::memset(zeros, 0, size_t(2 * job.dim));
    }

    static WF_INLINE const uint32_t *paired(const uint16_t *rows) { return reinterpret_cast<const uint32_t *>(rows); }

    // -- keys, laid out

    WF_INLINE const uint16_t *key(const JointChunk &chunk, int64_t k) const {
        if (k < chunk.tokens_room) return k < chunk.tokens ? job.kv + (chunk.token + k) * job.dim : zeros;
        k -= chunk.tokens_room;
        return k < chunk.entries ? job.entries + k * job.dim : zeros;
    }

    // panel[word][key] of keys first .. first + KEYS.
    WF_INLINE void pack(const JointChunk &chunk, int64_t first) {
        for (int64_t k = 0; k < KEYS; k += L) {
            const uint16_t *rows = key(chunk, first + k);
            if (key(chunk, first + k + L - 1) == rows + (L - 1) * job.dim) {
                for (int64_t word = 0; word < words; word += L)
                    S::transpose(paired(rows) + word, words, panel + word * KEYS + k, KEYS);
                continue;
            }
            for (int64_t l = 0; l < L; l++) {
                const uint16_t *row = key(chunk, first + k + l);
                for (int64_t word = 0; word < words; word++)
                    panel[word * KEYS + k + l] = S::template read<uint32_t>(row + 2 * word);
            }
        }
    }

    // zipped[pair][column] of keys first .. first + count.
    WF_INLINE void zip(const JointChunk &chunk, int64_t first, int64_t count) {
        for (int64_t k = 0; k < count; k += 2)
            zip_rows(key(chunk, first + k), key(chunk, first + k + 1), zipped + k / 2 * job.dim);
    }
    WF_INLINE void zip_rows(const uint16_t *low, const uint16_t *high, uint32_t *to) const {
        for (int64_t k = 0; k < job.dim; k += L) S::write(to + k, S::zip(low + k, high + k));
    }

    // -- who sees whom

    struct Range {
        int64_t begin, end;

        WF_INLINE Range within(int64_t first, int64_t count) const {
            const int64_t low = begin - first, high = end - first;
            return {low < 0 ? 0 : low > count ? count : low, high < 0 ? 0 : high > count ? count : high};
        }
        WF_INLINE Range even() const { return {begin / 2, (end + 1) / 2}; }
    };

    WF_INLINE int64_t visible(const JointChunk &chunk, int64_t t) const {
        const int64_t complete = (t + 1) / job.ratio;
        return complete < chunk.entries ? complete : chunk.entries;
    }
    // Of the keys of the chunk, tokens and entries that one of the rows row .. last sees.
    WF_INLINE Range tokens_of(const JointChunk &chunk, int64_t row, int64_t last) const {
        const int64_t oldest = chunk.first + row / job.heads - job.window + 1 - chunk.token;
        return {oldest < 0 ? 0 : oldest, chunk.first + last / job.heads + 1 - chunk.token};
    }
    WF_INLINE Range entries_of(const JointChunk &chunk, int64_t last) const {
        const int64_t count = chunk.entries ? visible(chunk, chunk.first + last / job.heads) : 0;
        return {chunk.tokens_room, chunk.tokens_room + count};
    }
    // Rows that see one of the keys k .. last of the same kind.
    WF_INLINE Range rows_of(const JointChunk &chunk, int64_t k, int64_t last) const {
        int64_t oldest, newest = chunk.first + chunk.count - 1;
        if (k < chunk.tokens_room) {
            oldest = chunk.token + k;
            if (chunk.token + last + job.window - 1 < newest) newest = chunk.token + last + job.window - 1;
        } else {
            oldest = (k - chunk.tokens_room + 1) * job.ratio - 1;
        }
        return Range{(oldest - chunk.first) * job.heads, (newest + 1 - chunk.first) * job.heads}.within(0, chunk.rows);
    }

    // -- products

    // to(r, k, values) for the N rows of `a` against the panel's keys of a range, and what else a vector holds.
    template <int N, int M, class To>
    WF_INLINE void vectors_of_panel(const uint16_t *a, int64_t k, const To &to) const {
        F c[N][M] = {};
        product<S, N, M>(paired(a), words, panel + k, KEYS, words, c);
#pragma GCC unroll 8
        for (int r = 0; r < N; r++)
#pragma GCC unroll 8
            for (int v = 0; v < M; v++) to(r, k + v * L, c[r][v]);
    }
    template <int N, class To>
    WF_INLINE void against_panel(const uint16_t *a, Range keys, const To &to) const {
        int64_t k = keys.begin / L * L;
        for (; k + (T - 1) * L < keys.end; k += T * L) vectors_of_panel<N, T>(a, k, to);
        if constexpr (T > 2)
            for (; k + L < keys.end; k += 2 * L) vectors_of_panel<N, 2>(a, k, to);
        for (; k < keys.end; k += L) vectors_of_panel<N, 1>(a, k, to);
    }

    // sums[row][column] (+)= sum over pairs of a[row][pair] b[pair][column] for rows `stride` words apart, of the pairs that
    // parts(row, last, part) gives for each part.
    template <int M, int PARTS, class Parts>
    WF_INLINE void columns(const uint32_t *a, int64_t stride, int64_t rows, const uint32_t *b, float *to, int64_t first,
                           bool fresh, const Parts &parts) const {
        by_tiles<R>(rows, [&](auto tile, int64_t row) __attribute__((always_inline)) {
            constexpr int N = decltype(tile)::value;
            F c[N][M];
            float *mine = to + row * job.dim + first;
#pragma GCC unroll 8
            for (int r = 0; r < N; r++)
#pragma GCC unroll 8
                for (int v = 0; v < M; v++) c[r][v] = fresh ? F{} : S::load(mine + r * job.dim + v * L);
            for (int part = 0; part < PARTS; part++) {
                const Range pairs = parts(row, row + N - 1, part);
                if (pairs.begin < pairs.end)
                    product<S, N, M>(a + row * stride + pairs.begin, stride, b + pairs.begin * job.dim + first, job.dim,
                                     pairs.end - pairs.begin, c);
            }
#pragma GCC unroll 8
            for (int r = 0; r < N; r++)
#pragma GCC unroll 8
                for (int v = 0; v < M; v++) S::store(mine + r * job.dim + v * L, c[r][v]);
        });
    }
    template <int PARTS, class Parts>
    WF_INLINE void multiply(const uint32_t *a, int64_t stride, int64_t rows, const uint32_t *b, float *to, bool fresh,
                            const Parts &parts) const {
        int64_t k = 0;
        for (; k + T * L <= job.dim; k += T * L) columns<T, PARTS>(a, stride, rows, b, to, k, fresh, parts);
        for (; k < job.dim; k += L) columns<1, PARTS>(a, stride, rows, b, to, k, fresh, parts);
    }

    // sums = weights . keys
    void weigh(const JointChunk &chunk, const uint16_t *weights) {
        for (int64_t first = 0; first < chunk.keys; first += BLOCK) {
            const int64_t count = chunk.keys - first < BLOCK ? chunk.keys - first : BLOCK;
            zip(chunk, first, count);
            multiply<2>(paired(weights + first), chunk.keys / 2, chunk.rows, zipped, sums, first == 0,
                        [&](int64_t row, int64_t last, int part) __attribute__((always_inline)) {
                            const Range seen = part ? entries_of(chunk, last) : tokens_of(chunk, row, last);
                            return seen.within(first, count).even();
                        });
        }
    }
    // to += weights^T . rows, of keys first .. first + count; weights laid out by keys.
    void weigh_rows(const JointChunk &chunk, const uint16_t *weights, int64_t stride, const uint32_t *rows,
                    int64_t first, int64_t count, float *to) const {
        multiply<1>(paired(weights + first * stride), stride / 2, count, rows, to, false,
                    [&](int64_t key, int64_t last, int)
                        __attribute__((always_inline)) { return rows_of(chunk, first + key, first + last).even(); });
    }

    // The keys of the panel that rows row .. last see.
    WF_INLINE Range of_panel(const JointChunk &chunk, int64_t first, int64_t row, int64_t last) const {
        const Range seen = first < chunk.tokens_room ? tokens_of(chunk, row, last) : entries_of(chunk, last);
        return seen.within(first, KEYS);
    }

    WF_INLINE float scale() const { return float(1 / std::sqrt(double(job.dim))); }

    // -- forward

    static void forward(const Joint &job, int64_t number, uint8_t *scratch) {
        JointKernel(job, scratch).attend(number);
    }

    void attend(int64_t number) {
        const JointChunk chunk(job, number);
        const uint16_t *q = job.q + chunk.first * job.heads * job.dim;
        const F factor = S::all(scale());
        for (int64_t first = 0; first < chunk.keys; first += KEYS) {
            pack(chunk, first);
            by_tiles<R>(chunk.rows, [&](auto tile, int64_t row) __attribute__((always_inline)) {
                constexpr int N = decltype(tile)::value;
                against_panel<N>(q + row * job.dim, of_panel(chunk, first, row, row + N - 1),
                                 [&](int r, int64_t k, F z) __attribute__((always_inline)) {
                                     S::store(scores + (row + r) * chunk.keys + first + k, z * factor);
                                 });
            });
        }
        for (int64_t row = 0; row < chunk.rows; row++) sums[row] = softmax(chunk, row);
        for (int64_t row = 0; row < chunk.rows; row++) scores[row] = sums[row];
        weigh(chunk, probs);
        uint16_t *o = job.o + chunk.first * job.heads * job.dim;
        for (int64_t row = 0; row < chunk.rows; row++) {
            const F part = S::all(scores[row]);
            for (int64_t k = 0; k < job.dim; k += L)
                S::narrow(o + row * job.dim + k, S::load(sums + row * job.dim + k) * part);
        }
    }

    // A row's exp(z - max) to probs, its lse and mass; the reciprocal of its sum.
    WF_INLINE float softmax(const JointChunk &chunk, int64_t row) {
        const int64_t t = chunk.first + row / job.heads, head = row % job.heads;
        float *z = scores + row * chunk.keys, *of_entries = z + chunk.tokens_room;
        const int64_t oldest = t - job.window + 1 > chunk.token ? t - job.window + 1 - chunk.token : 0;
        for (int64_t k = 0; k < oldest; k++) z[k] = -INFINITY;
        for (int64_t k = t + 1 - chunk.token; k < chunk.tokens_room; k++) z[k] = -INFINITY;
        if (chunk.entries) {
            const int64_t seen = visible(chunk, t);
            if (job.chosen) {
                const uint8_t *chosen = job.chosen + t * job.num_entries;
                for (int64_t k = 0; k < seen; k++) of_entries[k] = chosen[k] ? of_entries[k] : -INFINITY;
            }
            for (int64_t k = seen; k < chunk.keys - chunk.tokens_room; k++) of_entries[k] = -INFINITY;
        }
        F most = S::all(job.sink[head]), total = F{};
        for (int64_t k = 0; k < chunk.keys; k += L) most = S::max(most, S::load(z + k));
        const float top = S::largest(most);
        for (int64_t k = 0; k < chunk.keys; k += L) {
            const F e = S::exp(S::load(z + k) - top);
            total = total + e;
            S::store(z + k, e);
            S::narrow(probs + row * chunk.keys + k, e);
        }
        const float sum = S::sum(total) + std::exp(job.sink[head] - top);
        job.lse[t * job.heads + head] = top + std::log(sum);
        if (job.mass) {
            float *mass = job.mass + t * job.num_entries;
            for (int64_t k = 0; k < chunk.entries; k++) mass[k] = of_entries[k] / sum + (head ? mass[k] : 0);
            if (!head)
                for (int64_t k = chunk.entries; k < job.num_entries; k++) mass[k] = 0;
        }
        return 1 / sum;
    }

    // -- backward

    // The chunk's grad_q and delta; what it adds to the gradients of tokens `token` .. and of entries.
    static void grad(const Joint &job, int64_t number, int64_t token, float *grad_kv, float *grad_entries,
                     uint8_t *scratch) {
        JointKernel(job, scratch).back(number, token, grad_kv, grad_entries);
    }

    void back(int64_t number, int64_t token, float *grad_kv, float *grad_entries) {
        const JointChunk chunk(job, number);
        const int64_t at = chunk.first * job.heads, keys = chunk.keys, rows = (chunk.rows + 31) / 32 * 32;
        const uint16_t *q = job.q + at * job.dim, *grad_o = job.grad_o + at * job.dim;
        float *delta = job.delta + at;
        for (int64_t row = 0; row < chunk.rows; row++) delta[row] = 0;
        for (int64_t first = 0; first < keys; first += KEYS) {
            pack(chunk, first);
            by_tiles<R>(chunk.rows, [&](auto tile, int64_t row) __attribute__((always_inline)) {
                constexpr int N = decltype(tile)::value;
                alignas(64) float z[N][KEYS], dp[N][KEYS];
                const Range seen = of_panel(chunk, first, row, row + N - 1);
                against_panel<N>(q + row * job.dim, seen,
                                 [&](int r, int64_t k, F value)
                                     __attribute__((always_inline)) { S::store(z[r] + k, value); });
                against_panel<N>(grad_o + row * job.dim, seen,
                                 [&](int r, int64_t k, F value)
                                     __attribute__((always_inline)) { S::store(dp[r] + k, value); });
                for (int r = 0; r < N; r++) delta[row + r] += weigh_slopes(chunk, row + r, first, z[r], dp[r]);
            });
        }
        const float factor = scale();
        for (int64_t row = 0; row < chunk.rows; row++)
            for (int64_t k = row * keys; k < (row + 1) * keys; k += L) {
                const F p = S::load(scores + k);
                S::narrow(probs + k, p);
                S::narrow(grads + k, p * (S::load(slopes + k) - delta[row]) * factor);
            }
        std::memset(probs + chunk.rows * keys, 0, size_t(2 * (rows - chunk.rows) * keys));
        std::memset(grads + chunk.rows * keys, 0, size_t(2 * (rows - chunk.rows) * keys));
        weigh(chunk, grads);
        for (int64_t k = 0; k < chunk.rows * job.dim; k += L)
            S::narrow(job.grad_q + at * job.dim + k, S::load(sums + k));

        turn(probs, rows, keys, turned_probs);
        turn(grads, rows, keys, turned_grads);
        for (int64_t row = 0; row < rows; row += 2) {
            const bool low = row < chunk.rows, high = row + 1 < chunk.rows;
            uint32_t *to = rows_q + row / 2 * job.dim, *of_grad = rows_grad + row / 2 * job.dim;
            zip_rows(low ? q + row * job.dim : zeros, high ? q + (row + 1) * job.dim : zeros, to);
            zip_rows(low ? grad_o + row * job.dim : zeros, high ? grad_o + (row + 1) * job.dim : zeros, of_grad);
        }
        const auto add = [&](int64_t first, int64_t count, float *to) {
            if (!count) return;
            weigh_rows(chunk, turned_grads, rows, rows_q, first, count, to);
            weigh_rows(chunk, turned_probs, rows, rows_grad, first, count, to);
        };
        add(0, chunk.tokens, grad_kv + (chunk.token - token) * job.dim);
        add(chunk.tokens_room, chunk.entries, grad_entries);
    }

    // KEYS keys of a row: p to scores and dp to slopes, zero where the query does not see a key; sum p dp.
    WF_INLINE float weigh_slopes(const JointChunk &chunk, int64_t row, int64_t first, const float *z, const float *dp) {
        const int64_t t = chunk.first + row / job.heads, at = row * chunk.keys + first;
        const float factor = scale(), lse = job.lse[chunk.first * job.heads + row];
        float *p = scores + at, *slope = slopes + at;
        const Range seen = of_panel(chunk, first, row, row);
        const int64_t begin = seen.begin / L * L, end = (seen.end + L - 1) / L * L;
        for (int64_t k = begin; k < end; k += L) {
            S::store(p + k, S::exp(V::less(S::load(z + k) * factor - lse, F{})));
            S::store(slope + k, S::load(dp + k));
        }
        for (int64_t k = 0; k < seen.begin; k++) p[k] = slope[k] = 0;
        if (job.chosen && first >= chunk.tokens_room) {
            const uint8_t *chosen = job.chosen + t * job.num_entries + first - chunk.tokens_room;
            for (int64_t k = 0; k < seen.end; k++) p[k] = chosen[k] ? p[k] : 0, slope[k] = chosen[k] ? slope[k] : 0;
        }
        for (int64_t k = seen.end; k < KEYS; k++) p[k] = slope[k] = 0;
        F sum = F{};
        for (int64_t k = begin; k < end; k += L) sum = S::fma(S::load(p + k), S::load(slope + k), sum);
        return S::sum(sum);
    }

    // The sum of some rows of floats, rounded.
    static void join(const float *const *rows, int64_t count, int64_t dim, uint16_t *out) {
        for (int64_t k = 0; k < dim; k += L) {
            F sum = F{};
            for (int64_t i = 0; i < count; i++) sum = sum + S::load(rows[i] + k);
            S::narrow(out + k, sum);
        }
    }

    // from [rows, keys] -> to [keys, rows]
    WF_INLINE void turn(const uint16_t *from, int64_t rows, int64_t keys, uint16_t *to) const {
        alignas(64) uint32_t pairs[L * L], turned[L * L];
        for (int64_t row = 0; row < rows; row += 2 * L)
            for (int64_t k = 0; k < keys; k += L) {
                for (int64_t l = 0; l < L; l++) {
                    const uint16_t *low = from + (row + 2 * l) * keys + k;
                    S::write(pairs + l * L, S::zip(low, low + keys));
                }
                S::transpose(pairs, L, turned, L);
                for (int64_t l = 0; l < L; l++) S::write(to + (k + l) * rows + row, S::pairs(turned + l * L));
            }
    }
};

}  // namespace wf
