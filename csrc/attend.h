// Attention with one shared key-value head and a sink (ops/reference/attention.py): a window of tokens, then compressed
// entries, 64 keys at a time. Keys are decoded and laid out once for all heads, and for all of a task's queries where
// those share them; exp(z - running maximum) is rounded to bfloat16 before it meets the values.
//
// Past 1,024 entries the sum is taken in spans of so many, joined in their order: one query can then use every thread,
// and its result does not depend on how many there are.
#pragma once

#include <cmath>
#include <type_traits>

#include "rows.h"
#include "simd.h"

namespace wf {

constexpr int PIECE = 64;
constexpr int SPAN = 1024;       // entries; the window belongs to the first span
constexpr int MOST_QUERIES = 8;  // of a task

// Sizes have been checked. Query i stands at position first + i.
struct Attend {
    int64_t queries, heads, dim;
    const uint16_t *q;  // [queries, heads, dim]
    const float *sink;  // [heads]
    int64_t first, window;
    Rows past;              // of positions before `first`
    const uint16_t *fresh;  // [.., dim]: of the tokens from `fresh_first` on, the queries' own among them
    int64_t fresh_first;
    Rows entries;
    int64_t ratio;          // tokens of an entry; 0: the window alone
    const int32_t *chosen;  // [queries, most_chosen]: entries by number, then -1; null: all that are complete
    int64_t most_chosen;
    uint16_t *out;   // [queries, heads, dim]
    float *partial;  // [queries, spans, heads, width + 2] when spans are tasks of their own
    int64_t spans;   // of the longest query

    WF_INLINE int64_t visible(int64_t query) const { return ratio ? (first + query + 1) / ratio : 0; }
    WF_INLINE int64_t width() const { return padded(dim, 64); }
};

struct AttendTask {
    int64_t query, queries, head, heads, span, spans;
};

template <class S>
struct AttendKernel {
    using F = typename S::F;
    using U = typename S::U;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, V = S::TILE_VECTORS;

    const Attend &job;
    const int64_t width, words, stride;  // of a row: values, pairs, words between rows of `v`
    const int64_t keys, all_heads;       // keys that fit; heads with their padding
    uint16_t *rows;                      // [keys, width]
    uint32_t *kt, *v;  // [words, keys], [keys, stride]: pairs down a key; a key's value beside the next one's
    uint32_t *q;       // [MOST_QUERIES, all_heads, words]
    float *z;          // [all_heads, PIECE]
    uint32_t *p;       // [all_heads, PIECE / 2]
    float *top, *sum, *decay, *out;      // [MOST_QUERIES, all_heads (, width)]: of a span
    float *all_top, *all_sum, *all_out;  // of the spans before it

    static int64_t bytes(const Attend &job) { return layout(job, nullptr, nullptr); }

    AttendKernel(const Attend &given, uint8_t *scratch)
        : job(given), width(job.width()), words(width / 2), stride(width + 16), keys(most_keys(job)),
          all_heads(padded(job.heads, R)) {
        layout(job, scratch, this);
    }

    static int64_t layout(const Attend &job, uint8_t *base, AttendKernel *kernel) {
        const int64_t width = job.width(), H = padded(job.heads, R),
                      Q = MOST_QUERIES < job.queries ? MOST_QUERIES : job.queries;
        const int64_t keys = most_keys(job);
        int64_t used = 0;
        auto take = [&](auto **to, int64_t count) {
            if (kernel) *to = reinterpret_cast<std::remove_reference_t<decltype(**to)> *>(base + used);
            used += padded(count * int64_t(sizeof **to), 64);
        };
        uint16_t *rows;
        uint32_t *words;
        float *floats;
        take(kernel ? &kernel->rows : &rows, keys * width);
        take(kernel ? &kernel->kt : &words, width / 2 * keys);
        take(kernel ? &kernel->v : &words, keys * (width + 16));
        take(kernel ? &kernel->q : &words, Q * H * width / 2);
        take(kernel ? &kernel->z : &floats, H * PIECE);
        take(kernel ? &kernel->p : &words, H * PIECE / 2);
        take(kernel ? &kernel->decay : &floats, H);
        take(kernel ? &kernel->top : &floats, Q * H);
        take(kernel ? &kernel->sum : &floats, Q * H);
        take(kernel ? &kernel->out : &floats, Q * H * width);
        const int64_t joined = job.spans > 1 && !job.partial ? Q * H : 0;
        take(kernel ? &kernel->all_top : &floats, joined);
        take(kernel ? &kernel->all_sum : &floats, joined);
        take(kernel ? &kernel->all_out : &floats, joined * width);
        return used;
    }

    // Keys that a task's windows can hold between them, with a piece of padding.
    static int64_t most_keys(const Attend &job) {
        const int64_t Q = MOST_QUERIES < job.queries ? MOST_QUERIES : job.queries;
        return padded(job.window + Q - 1, PIECE) + PIECE;
    }

    // rows[0 .. count) -> kt and v. With `both`, a pair may begin at any key; else at even ones.
    void pack(int64_t count, bool both) {
        const int64_t whole = padded(count, PIECE) + (both ? PIECE : 0);
        std::memset(rows + count * width, 0, size_t(2 * (whole - count) * width));
        const uint32_t *pairs = reinterpret_cast<const uint32_t *>(rows);
        for (int64_t key = 0; key < whole; key += L)
            for (int64_t k = 0; k < words; k += L)
                S::transpose(pairs + key * words + k, words, kt + k * keys + key, keys);
        for (int64_t key = 0; key + 1 < whole; key += both ? 1 : 2)
            for (int64_t k = 0; k < width; k += L)
                S::template write<U>(v + key * stride + k,
                                     S::zip(rows + key * width + k, rows + (key + 1) * width + k));
    }

    WF_INLINE void take_row(const Rows &source, int64_t n, int64_t place) {
        uint16_t *row = rows + place * width;
        decode_row<S>(source, n, row);
        if (width > job.dim) std::memset(row + job.dim, 0, size_t(2 * (width - job.dim)));
    }

    template <int N>
    void head_rows(int64_t query, int64_t head, int64_t first) {
        const uint32_t *mine = q + (query * all_heads + head) * words;
        for (int64_t key = 0; key < PIECE; key += V * L) {
            F c[N][V];
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) c[r][j] = F{};
            product<S, N, V>(mine, words, kt + first + key, keys, words, c);
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) S::store(z + (head + r) * PIECE + key + j * L, c[r][j]);
        }
    }

    template <int N>
    void value_rows(int64_t query, int64_t head, int64_t first, int64_t count) {
        float *mine = out + (query * all_heads + head) * width;
        const uint32_t *weights = p + head * (PIECE / 2);
        for (int64_t k = 0; k < width; k += V * L) {
            F c[N][V];
            for (int r = 0; r < N; r++) {
                const F factor = S::all(decay[head + r]);
                for (int j = 0; j < V; j++) c[r][j] = S::load(mine + r * width + k + j * L) * factor;
            }
            const uint32_t *values = v + first * stride + k;
            product<S, N, V>(weights, PIECE / 2, values, 2 * stride, count / 2, c);
            // the last of an odd count without its neighbour: a key that the query does not see, and 0 * NaN is NaN
            if (count % 2) last_row<N>(weights + count / 2, values + (count - 1) * stride, c);
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) S::store(mine + r * width + k + j * L, c[r][j]);
        }
    }

    template <int N>
    static WF_INLINE void last_row(const uint32_t *weights, const uint32_t *values, F (&c)[N][V]) {
        U right[V];
        for (int j = 0; j < V; j++) right[j] = S::pairs(values + j * L) & S::all_pairs(0xFFFF);
        for (int r = 0; r < N; r++) {
            const U left = S::all_pairs(S::template read<uint32_t>(weights + r * (PIECE / 2)));
            for (int j = 0; j < V; j++) c[r][j] = S::dot(c[r][j], left, right[j]);
        }
    }

    // The packed keys first .. first + count (at most a piece) join a query's sums.
    void add(int64_t query, int64_t heads, int64_t first, int64_t count) {
        by_tiles<R>(heads, [&](auto n, int64_t h) { head_rows<n>(query, h, first); });
        const F scale = S::all(float(1 / std::sqrt(double(job.dim))));
        const int whole = int(padded(count, L));
        for (int64_t h = 0; h < heads; h++) {
            float *row = z + h * PIECE;
            float &m = top[query * all_heads + h], &s = sum[query * all_heads + h];
            F most = S::all(-INFINITY);
            for (int k = 0; k < whole; k += L) {
                const F value = S::load(row + k) * scale;
                S::store(row + k, value);
            }
            for (int64_t k = count; k < PIECE; k++) row[k] = -INFINITY;
            for (int k = 0; k < whole; k += L) most = S::max(S::load(row + k), most);
            const float peak = S::largest(most), next = peak > m ? peak : m;
            F total = F{};
            uint16_t *weights = reinterpret_cast<uint16_t *>(p + h * (PIECE / 2));
            for (int k = 0; k < PIECE; k += L) {
                const F weight = S::exp(S::load(row + k) - S::all(next));
                total = total + weight;
                S::narrow(weights + k, weight);
            }
            decay[h] = std::exp(m - next);
            s = s * decay[h] + S::sum(total);
            m = next;
        }
        by_tiles<R>(heads, [&](auto n, int64_t h) { value_rows<n>(query, h, first, count); });
    }

    void clear(int64_t queries, int64_t heads) {
        for (int64_t i = 0; i < queries * all_heads; i++) top[i] = -INFINITY, sum[i] = 0;
        for (int64_t i = 0; i < queries; i++) std::memset(out + i * all_heads * width, 0, size_t(4 * heads * width));
    }

    // (top, sum, out) += what comes after it.
    WF_INLINE void join(float &top_a, float &sum_a, float *out_a, float top_b, float sum_b, const float *out_b) const {
        const float most = top_b > top_a ? top_b : top_a;
        const float a = std::exp(top_a - most), b = std::exp(top_b - most);
        top_a = most;
        sum_a = sum_a * a + sum_b * b;
        for (int64_t k = 0; k < width; k += L)
            S::store(out_a + k, S::load(out_a + k) * S::all(a) + S::load(out_b + k) * S::all(b));
    }

    void finish(int64_t query, int64_t head, float most, float total, const float *sums) const {
        const F divisor = S::all(total + std::exp(job.sink[head] - most));
        uint16_t *to = job.out + (query * job.heads + head) * job.dim;
        alignas(64) uint16_t last[64];
        for (int64_t k = 0; k < job.dim; k += L) {
            const F value = S::load(sums + k) / divisor;
            if (k + L <= job.dim) {
                S::narrow(to + k, value);
            } else {
                S::narrow(last, value);
                std::memcpy(to + k, last, size_t(2 * (job.dim - k)));
            }
        }
    }

    void run(const AttendTask &task) {
        std::memset(q, 0, size_t(4 * task.queries * all_heads * words));
        for (int64_t i = 0; i < task.queries; i++)
            for (int64_t h = 0; h < task.heads; h++)
                std::memcpy(q + (i * all_heads + h) * words,
                            job.q + ((task.query + i) * job.heads + task.head + h) * job.dim, size_t(2 * job.dim));
        for (int64_t span = task.span; span < task.span + task.spans; span++) {
            clear(task.queries, task.heads);
            if (span == 0) add_window(task);
            if (job.ratio) job.chosen ? add_chosen(task, span) : add_visible(task, span);
            if (job.partial) keep(task, span);
            else if (job.spans > 1) join_span(task, span);
        }
        if (job.partial) return;
        const bool joined = job.spans > 1;
        for (int64_t i = 0; i < task.queries; i++)
            for (int64_t h = 0; h < task.heads; h++) {
                const int64_t at = i * all_heads + h;
                finish(task.query + i, task.head + h, joined ? all_top[at] : top[at], joined ? all_sum[at] : sum[at],
                       (joined ? all_out : out) + at * width);
            }
    }

    void add_window(const AttendTask &task) {
        const int64_t begin = job.first + task.query, end = begin + task.queries;
        const int64_t lowest = begin - job.window + 1 > 0 ? begin - job.window + 1 : 0;
        for (int64_t t = lowest; t < end; t++) {
            if (t < job.fresh_first) {
                take_row(job.past, t, t - lowest);
                continue;
            }
            uint16_t *row = rows + (t - lowest) * width;
            std::memset(row + job.dim, 0, size_t(2 * (width - job.dim)));
            std::memcpy(row, job.fresh + (t - job.fresh_first) * job.dim, size_t(2 * job.dim));
        }
        pack(end - lowest, task.queries > 1);
        for (int64_t i = 0; i < task.queries; i++) {
            const int64_t t = begin + i, oldest = t - job.window + 1 > 0 ? t - job.window + 1 : 0;
            for (int64_t slot = oldest; slot <= t; slot += PIECE)
                add(i, task.heads, slot - lowest, t + 1 - slot < PIECE ? t + 1 - slot : PIECE);
        }
    }

    void add_chosen(const AttendTask &task, int64_t span) {
        const int64_t begin = span * SPAN, end = begin + SPAN < job.most_chosen ? begin + SPAN : job.most_chosen;
        for (int64_t i = 0; i < task.queries; i++) {
            const int32_t *mine = job.chosen + (task.query + i) * job.most_chosen;
            for (int64_t first = begin; first < end; first += PIECE) {
                int64_t count = 0;
                for (; count < PIECE && first + count < end && mine[first + count] >= 0; count++)
                    take_row(job.entries, mine[first + count], count);
                if (count == 0) break;
                pack(count, false);
                add(i, task.heads, 0, count);
            }
        }
    }

    void add_visible(const AttendTask &task, int64_t span) {
        const int64_t begin = span * SPAN, most = job.visible(task.query + task.queries - 1);
        const int64_t end = begin + SPAN < most ? begin + SPAN : most;
        for (int64_t first = begin; first < end; first += PIECE) {
            const int64_t count = end - first < PIECE ? end - first : PIECE;
            for (int64_t i = 0; i < count; i++) take_row(job.entries, first + i, i);
            pack(count, false);
            for (int64_t i = 0; i < task.queries; i++) {
                const int64_t seen = job.visible(task.query + i) - first;
                if (seen > 0) add(i, task.heads, 0, seen < count ? seen : count);
            }
        }
    }

    float *partial_of(int64_t query, int64_t span, int64_t head) const {
        return job.partial + ((query * job.spans + span) * job.heads + head) * (width + 16);
    }

    void keep(const AttendTask &task, int64_t span) {
        for (int64_t i = 0; i < task.queries; i++)
            for (int64_t h = 0; h < task.heads; h++) {
                float *to = partial_of(task.query + i, span, task.head + h);
                const int64_t at = i * all_heads + h;
                to[0] = top[at], to[1] = sum[at];
                std::memcpy(to + 16, out + at * width, size_t(4 * width));
            }
    }

    void join_span(const AttendTask &task, int64_t span) {
        for (int64_t i = 0; i < task.queries; i++)
            for (int64_t h = 0; h < task.heads; h++) {
                const int64_t at = i * all_heads + h;
                if (span == 0) {
                    all_top[at] = top[at], all_sum[at] = sum[at];
                    std::memcpy(all_out + at * width, out + at * width, size_t(4 * width));
                } else if (top[at] > -INFINITY) {
                    join(all_top[at], all_sum[at], all_out + at * width, top[at], sum[at], out + at * width);
                }
            }
    }

    // The spans that tasks kept, joined in their order.
    void join_kept(int64_t query, int64_t head) const {
        float *first = partial_of(query, 0, head);
        for (int64_t span = 1; span < job.spans; span++) {
            const float *next = partial_of(query, span, head);
            if (next[0] > -INFINITY) join(first[0], first[1], first + 16, next[0], next[1], next + 16);
        }
        finish(query, head, first[0], first[1], first + 16);
    }
};

}  // namespace wf
