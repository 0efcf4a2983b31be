// RMS norm of rows, with a weight or without, then rotation of their last dims: forward in training, and the gradient
// (ops/reference/norm.py, rope.py). The norm's result is rounded to bfloat16 before it is turned, as there.
//
//   y = w x r,  r = 1 / rms(x):   grad_x = r w g - x r^3 mean(w g x),   grad_w = sum over rows of g x r
#pragma once

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace wf {

struct NormRows {
    const uint16_t *x;    // [rows, columns]
    const float *weight;  // null: none
    int64_t columns;
    float eps;
    const float *cosine, *sine;  // [rows / heads, pairs]; or null, and nothing turns
    int64_t pairs, heads;
    bool inverse;
    uint16_t *out;  // y, or grad_x
    const uint16_t *grad;
};

template <class S>
struct NormKernel {
    using F = typename S::F;
    using U = typename S::U;
    using V = Lanes<S>;
    static constexpr int L = S::LANES;

    // The last 2 pairs values of a row: a word holds a pair.
    static WF_INLINE void turn(const NormRows &job, int64_t row, bool inverse, const uint16_t *from, uint16_t *to) {
        const float *cosine = job.cosine + row / job.heads * job.pairs, *sine = job.sine + row / job.heads * job.pairs;
        const float sign = inverse ? -1.0f : 1.0f;
        int64_t i = 0;
        for (; i + L <= job.pairs; i += L) {
            const U both = S::template read<U>(from + 2 * i);
            const F even = S::bits(both << 16), odd = S::bits(both & S::all_pairs(0xFFFF0000));
            const F c = S::load(cosine + i), s = S::load(sine + i) * sign;
            S::write(to + 2 * i, S::round(even * c - odd * s) | S::round(even * s + odd * c) << 16);
        }
        for (; i < job.pairs; i++) {
            const float even = bf16_to_float(from[2 * i]), odd = bf16_to_float(from[2 * i + 1]);
            const float c = cosine[i], s = sine[i] * sign;
            to[2 * i] = float_to_bf16(even * c - odd * s), to[2 * i + 1] = float_to_bf16(even * s + odd * c);
        }
    }

    static void forward(const NormRows &job, int64_t first, int64_t end) {
        const int64_t n = job.columns;
        for (int64_t row = first; row < end; row++) {
            const uint16_t *x = job.x + row * n;
            uint16_t *out = job.out + row * n;
            F sum = F{};
            V::each(n, [&](int64_t k, int count) __attribute__((always_inline)) {
                const F value = V::words(x + k, count);
                sum = S::fma(value, value, sum);
            });
            const F r = S::all(1 / std::sqrt(S::sum(sum) / float(n) + job.eps));
            if (job.weight)
                V::each(n, [&](int64_t k, int count) __attribute__((always_inline)) {
                    V::round(out + k, V::floats(job.weight + k, count) * (V::words(x + k, count) * r), count);
                });
            else
                V::each(n, [&](int64_t k, int count) __attribute__((always_inline)) {
                    V::round(out + k, V::words(x + k, count) * r, count);
                });
            const int64_t tail = n - 2 * job.pairs;
            if (job.cosine) turn(job, row, job.inverse, out + tail, out + tail);
        }
    }

    // The gradient of the weight is added to `partial`; scratch: a row.
    static void grad(const NormRows &job, int64_t first, int64_t end, float *partial, uint8_t *scratch) {
        const int64_t n = job.columns, tail = n - 2 * job.pairs;
        uint16_t *turned = reinterpret_cast<uint16_t *>(scratch);
        for (int64_t row = first; row < end; row++) {
            const uint16_t *x = job.x + row * n, *g = job.grad + row * n;
            uint16_t *out = job.out + row * n;
            if (job.cosine) {
                std::memcpy(turned, g, size_t(2 * tail));
                turn(job, row, !job.inverse, g + tail, turned + tail);
                g = turned;
            }
            F squares = F{}, dots = F{};
            V::each(n, [&](int64_t k, int count) __attribute__((always_inline)) {
                const F value = V::words(x + k, count), back = V::words(g + k, count);
                squares = S::fma(value, value, squares);
                dots = S::fma(job.weight ? back * V::floats(job.weight + k, count) : back, value, dots);
            });
            const float root = 1 / std::sqrt(S::sum(squares) / float(n) + job.eps);
            const F r = S::all(root), through = S::all(S::sum(dots) * root * root * root / float(n));
            V::each(n, [&](int64_t k, int count) __attribute__((always_inline)) {
                const F value = V::words(x + k, count), back = V::words(g + k, count) * r;
                F weighted = back;
                if (job.weight) {
                    weighted = back * V::floats(job.weight + k, count);
                    V::store(partial + k, S::fma(back, value, V::floats(partial + k, count)), count);
                }
                V::round(out + k, weighted - through * value, count);
            });
        }
    }

    static void rotate(const NormRows &job, int64_t first, int64_t end) {
        const int64_t n = job.columns, tail = n - 2 * job.pairs;
        for (int64_t row = first; row < end; row++) {
            std::memcpy(job.out + row * n, job.x + row * n, size_t(2 * tail));
            turn(job, row, job.inverse, job.x + row * n + tail, job.out + row * n + tail);
        }
    }
};

}  // namespace wf
