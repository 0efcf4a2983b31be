// Products in float32, for matrices in it and for instruction sets that multiply nothing narrower: a tile of the weight and a
// few rows of x at a time are widened, so that nothing but multiply-adds is left between loads.
#pragma once

#include "gemm.h"

namespace wf {

template <class S>
struct FloatGemm : TiledGemm<S, FloatGemm<S>> {
    using F = typename S::F;
    using U = typename S::U;
    using Parts = GemmParts<S>;
    static constexpr int L = S::LANES, R = S::FLOAT_ROWS, V = S::FLOAT_VECTORS, W = V * L;
    // the tile stays in a second cache, rows of x in a first
    static constexpr int64_t COLUMNS = 512, LINE = COLUMNS + L;
    static_assert(GEMM_TILE % W == 0 && GEMM_ROWS % R == 0 && W % L == 0, "tiles are whole");

    // panel[n / W][k][n % W] = W[n, k], `LINE` columns apart. Rows beyond `count` are zero.
    static void pack(const GemmTask &task, int64_t first, int64_t columns, uint32_t *lines, uint32_t *panel) {
        const bool is_wide = task.weight->form == WF_FP32 || is_blocks(task.weight->form);
        const int64_t words = is_wide ? columns : (columns + 1) / 2;
        for (int64_t n = 0; n < GEMM_TILE; n += L) {
            Parts::decode_lines(task, n, first, columns, words, is_wide, lines, LINE);
            float *to = reinterpret_cast<float *>(panel) + n / W * W * LINE + n % W;
            for (int64_t k = 0; k < words; k += L) {
                if (is_wide) {
                    S::transpose(lines + k, LINE, reinterpret_cast<uint32_t *>(to) + k * W, W);
                    continue;
                }
                alignas(64) uint32_t pairs[L * L];
                S::transpose(lines + k, LINE, pairs, L);
                for (int64_t i = 0; i < L; i++) {
                    const U pair = S::pairs(pairs + i * L);
                    S::store(to + 2 * (k + i) * W, S::bits(pair << 16));
                    S::store(to + (2 * (k + i) + 1) * W, S::bits(pair & 0xFFFF0000));
                }
            }
        }
    }

    static void multiply(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel,
                         bool more, uint32_t *copy, float *sums) {
        float *wide = reinterpret_cast<float *>(copy);
        widen(x, stride, rows, columns, wide);
        for (int64_t n = 0; n < GEMM_TILE; n += W)
            tile(wide, reinterpret_cast<const float *>(panel) + n * LINE, columns, more, sums + n);
    }

  private:
    static void widen(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, float *wide) {
        for (int64_t r = 0; r < R; r++) {
            float *to = wide + r * LINE;
            int64_t k = 0;
            if (r >= rows) std::memset(to, 0, size_t(4 * columns));
            else {
                for (; k + L <= columns; k += L) S::store(to + k, S::widen(x + r * stride + k));
                for (; k < columns; k++) to[k] = bf16_to_float(x[r * stride + k]);
            }
        }
    }

    static void tile(const float *x, const float *panel, int64_t columns, bool more, float *sums) {
        F c[R][V];
        for (int r = 0; r < R; r++)
            for (int j = 0; j < V; j++) c[r][j] = more ? S::load(sums + r * GEMM_TILE + j * L) : F{};
        for (int64_t k = 0; k < columns; k++, panel += W) {
            F right[V];
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) right[j] = S::load(panel + j * L);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const F left = S::all(x[r * LINE + k]);
#pragma GCC unroll 8
                for (int j = 0; j < V; j++) c[r][j] = S::fma(left, right[j], c[r][j]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int j = 0; j < V; j++) S::store(sums + r * GEMM_TILE + j * L, c[r][j]);
    }
};

}  // namespace wf
