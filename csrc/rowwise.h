// What is done to one row of bfloat16 between the products: norms, rotation, quantization, compression. Each as its reference
// in ops/reference states it.
#pragma once

#include <cmath>

#include "kernels.h"
#include "quantize.h"
#include "rows.h"
#include "simd.h"

namespace wf {

// In 16 lanes; with `rounded`, each square is rounded to bfloat16 first.
float sum_squares(const uint16_t *x, int64_t n, bool rounded = false);

// x / rms(x) * weight, in float32, rounded once. In place where `out` is x.
void rms_norm(const uint16_t *x, const uint16_t *weight, int64_t n, float eps, uint16_t *out);

// x / rms(x). Released: square, mean, + eps, root and product are each rounded to bfloat16.
void unit_rms_norm(uint16_t *x, int64_t n, float eps, bool released);

// cos and sin [pairs] of a position.
void rope_angles(int64_t position, const float *frequencies, int64_t pairs, float *table);

// The last 2 * pairs of n values turned by a table's angles, back when `inverse`.
void rotate(uint16_t *x, int64_t n, const float *table, int64_t pairs, bool inverse);

// x H / sqrt(n) for a power of two n <= 1024, in float32, rounded once.
void hadamard(uint16_t *x, int64_t n);

// to[k] += x[k]; and to[k] in bfloat16.
void add(const uint16_t *x, int64_t n, float *to);
void round(const float *x, int64_t n, uint16_t *to);

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

// sum_s softmax_s(score) * value of `count` rows in each of n channels; `row` gives them.
template <class Row>
inline void compress_rows(int64_t count, int64_t n, const Row &row, uint16_t *out) {
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
