// What is done to one row of bfloat16 between the products: norms, rotation, quantisation, pooling. Each as its reference
// in ops/reference states it.
#pragma once

#include <cmath>

#include "kernels.h"
#include "quantise.h"
#include "rows.h"
#include "simd.h"

namespace wf {

// In 16 lanes; with `rounded`, each square is rounded to bfloat16 first.
inline float sum_squares(const uint16_t *x, int64_t n, bool rounded = false) {
    float lanes[16] = {};
    const auto square = [&](int64_t k) {
        const float value = bf16_to_float(x[k]) * bf16_to_float(x[k]);
        return rounded ? bf16_to_float(float_to_bf16(value)) : value;
    };
    int64_t k = 0;
    for (; k + 16 <= n; k += 16)
        for (int l = 0; l < 16; l++) lanes[l] += square(k + l);
    for (int l = 0; k < n; k++, l++) lanes[l] += square(k);
    float sum = 0;
    for (int l = 0; l < 16; l++) sum += lanes[l];
    return sum;
}

// x / rms(x) * weight, in float32, rounded once. In place where `out` is x.
inline void rms_norm(const uint16_t *x, const uint16_t *weight, int64_t n, float eps, uint16_t *out) {
    const float factor = 1 / std::sqrt(sum_squares(x, n) / float(n) + eps);
    for (int64_t k = 0; k < n; k++) out[k] = float_to_bf16(bf16_to_float(weight[k]) * (bf16_to_float(x[k]) * factor));
}

// x / rms(x). Released: square, mean, + eps, root and product are each rounded to bfloat16.
inline void unit_rms_norm(uint16_t *x, int64_t n, float eps, bool released) {
    const float sum = sum_squares(x, n, released);
    float factor;
    if (released) {
        const float mean = bf16_to_float(float_to_bf16(sum / float(n)));
        factor = 1 / std::sqrt(bf16_to_float(float_to_bf16(mean + eps)));
        factor = bf16_to_float(float_to_bf16(factor));
    } else {
        factor = 1 / std::sqrt(sum / float(n) + eps);
    }
    for (int64_t k = 0; k < n; k++) x[k] = float_to_bf16(bf16_to_float(x[k]) * factor);
}

// cos and sin [pairs] of a position.
inline void rope_angles(int64_t position, const float *frequencies, int64_t pairs, float *table) {
    for (int64_t i = 0; i < pairs; i++) {
        const float angle = float(position) * frequencies[i];
        table[i] = std::cos(angle), table[pairs + i] = std::sin(angle);
    }
}

// The last 2 * pairs of n values turned by a table's angles, back when `inverse`.
inline void rotate(uint16_t *x, int64_t n, const float *table, int64_t pairs, bool inverse) {
    x += n - 2 * pairs;
    for (int64_t i = 0; i < pairs; i++) {
        const float cosine = table[i], sine = inverse ? -table[pairs + i] : table[pairs + i];
        const float even = bf16_to_float(x[2 * i]), odd = bf16_to_float(x[2 * i + 1]);
        x[2 * i] = float_to_bf16(even * cosine - odd * sine);
        x[2 * i + 1] = float_to_bf16(even * sine + odd * cosine);
    }
}

// x H / sqrt(n) for a power of two n <= 1024, in float32, rounded once.
inline void hadamard(uint16_t *x, int64_t n) {
    float values[1024];
    for (int64_t k = 0; k < n; k++) values[k] = bf16_to_float(x[k]);
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t first = 0; first < n; first += 2 * half)
            for (int64_t k = first; k < first + half; k++) {
                const float a = values[k], b = values[k + half];
                values[k] = a + b, values[k + half] = a - b;
            }
    const float factor = float(1 / std::sqrt(double(n)));
    for (int64_t k = 0; k < n; k++) x[k] = float_to_bf16(values[k] * factor);
}

// A row as it is stored (cache/record.py).
inline void encode_row(const uint16_t *x, const Rows &rows, uint8_t *out) {
    if (rows.form == WF_ROWS_BF16) {
        std::memcpy(out, x, size_t(2 * rows.dim));
        return;
    }
    if (rows.form == WF_ROWS_INDEX) return fp4_encode(x, rows.dim, INDEX_BLOCK, out, out + rows.dim / 2);
    const int64_t nope = rows.dim - rows.rope_dim, scales = nope + 2 * rows.rope_dim;
    std::memset(out + scales, 0, size_t(rows.row_bytes - scales));
    fp8_encode(x, nope, KV_BLOCK, out, out + scales);
    std::memcpy(out + nope, x + nope, size_t(2 * rows.rope_dim));
}

// sum_s softmax_s(score) * value of `count` rows in each of n channels; row s of `values` and `scores` at stride `s`.
// `ring` gives the rows.
template <class Row>
inline void pool_rows(int64_t count, int64_t n, const Row &row, uint16_t *out) {
    using S = Vector<4>;
    for (int64_t k = 0; k < n; k += 4) {
        S::F top = S::all(-INFINITY), sum = S::F{}, total = S::F{};
        const bool whole = k + 4 <= n;
        float value[4] = {}, score[4] = {};
        auto read = [&](int64_t s) {
            const float *values, *scores;
            row(s, values, scores);
            for (int l = 0; l < 4; l++)
                if (whole || k + l < n) value[l] = values[k + l], score[l] = scores[k + l];
        };
        for (int64_t s = 0; s < count; s++) {
            read(s);
            top = S::max(top, S::load(score));
        }
        for (int64_t s = 0; s < count; s++) {
            read(s);
            const S::F weight = S::exp(S::load(score) - top);
            sum = sum + weight;
            total = total + weight * S::load(value);
        }
        float pooled[4];
        S::store(pooled, total / sum);
        for (int l = 0; l < 4 && k + l < n; l++) out[k + l] = float_to_bf16(pooled[l]);
    }
}

}  // namespace wf
