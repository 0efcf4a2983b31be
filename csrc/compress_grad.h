// Compression of blocks of tokens into entries, and its gradient (ops/reference/compress.py): in each channel
//
//   p = softmax over the entry's rows of score + ape,   entry = sum p kv
//   grad_kv = p g,   grad_score = p g (kv - entry),   grad_ape the same, summed over blocks
//
// plain: the rows of a block. overlapped: the first `dim` columns of the block before and the last of its own.
#pragma once

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace wf {

struct Compression {
    const uint16_t *kv, *score;  // [tokens, width]
    const float *ape;            // [ratio, width]
    int64_t ratio, dim;
    bool overlap;
    const int64_t
        *starts;    // of each entry: its block's first token, times 4, + 1 with a block before, + 2 with one after
    uint16_t *out;  // [entries, dim]
    const uint16_t *grad;
    uint16_t *grad_kv, *grad_score;

    WF_INLINE int64_t width() const { return overlap ? 2 * dim : dim; }
};

template <class S>
struct CompressKernel {
    using F = typename S::F;
    using V = Lanes<S>;
    static constexpr int64_t PREVIOUS = 1, NEXT = 2;

    // body(row of kv, row of ape) for an entry's rows, each at its first channel.
    template <class Body>
    static WF_INLINE void rows(const Compression &job, int64_t entry, const Body &body) {
        const int64_t width = job.width(), token = job.starts[entry] / 4;
        if (job.overlap && job.starts[entry] & PREVIOUS)
            for (int64_t s = 0; s < job.ratio; s++) body((token - job.ratio + s) * width, s * width);
        const int64_t half = width - job.dim;
        for (int64_t s = 0; s < job.ratio; s++) body((token + s) * width + half, s * width + half);
    }

    // The pooled channels k .., and the softmax's maximum and sum.
    static WF_INLINE F pooled(const Compression &job, int64_t entry, int64_t k, int n, F &top, F &sum) {
        F most = S::all(-INFINITY), total = F{}, divisor = F{};
        rows(job, entry, [&](int64_t row, int64_t place) __attribute__((always_inline)) {
            most = S::max(V::words(job.score + row + k, n) + V::floats(job.ape + place + k, n), most);
        });
        rows(job, entry, [&](int64_t row, int64_t place) __attribute__((always_inline)) {
            const F score = V::words(job.score + row + k, n) + V::floats(job.ape + place + k, n);
            const F weight = S::exp(score - most);
            divisor = divisor + weight;
            total = S::fma(weight, V::words(job.kv + row + k, n), total);
        });
        top = most, sum = divisor;
        return total / divisor;
    }

    static void forward(const Compression &job, int64_t first, int64_t end) {
        for (int64_t entry = first; entry < end; entry++)
            V::each(job.dim, [&](int64_t k, int n) __attribute__((always_inline)) {
                F top, sum;
                V::round(job.out + entry * job.dim + k, pooled(job, entry, k, n, top, sum), n);
            });
    }

    // The gradient of ape is added to `partial`.
    static void grad(const Compression &job, int64_t entry, float *partial) {
        V::each(job.dim, [&](int64_t k, int n) __attribute__((always_inline)) {
            F top, sum;
            const F value = pooled(job, entry, k, n, top, sum), g = V::words(job.grad + entry * job.dim + k, n) / sum;
            rows(job, entry, [&](int64_t row, int64_t place) __attribute__((always_inline)) {
                const F score = V::words(job.score + row + k, n) + V::floats(job.ape + place + k, n);
                const F back = S::exp(score - top) * g, of_score = back * (V::words(job.kv + row + k, n) - value);
                V::round(job.grad_kv + row + k, back, n);
                V::round(job.grad_score + row + k, of_score, n);
                V::store(partial + place + k, V::floats(partial + place + k, n) + of_score, n);
            });
        });
        if (!job.overlap || job.starts[entry] & NEXT) return;
        for (int64_t s = 0; s < job.ratio; s++) {  // no entry reads these
            const int64_t row = (job.starts[entry] / 4 + s) * job.width();
            std::memset(job.grad_kv + row, 0, size_t(2 * job.dim));
            std::memset(job.grad_score + row, 0, size_t(2 * job.dim));
        }
    }
};

}  // namespace wf
