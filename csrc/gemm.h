// y = x W^T for many rows of x: 64 rows of the weight at a time are decoded to bfloat16 and laid out by pairs of columns,
// then meet every row of x (ops/reference/linear.py). A block of columns after another, so that both stay in the cache;
// each output element is summed in the columns' order, whatever x_rows.
#pragma once

#include <type_traits>

#include "rows.h"
#include "simd.h"

namespace wf {

constexpr int64_t GEMM_TILE = 64;       // rows of a weight decoded together
constexpr int64_t GEMM_COLUMNS = 1024;  // decoded at a time
constexpr int64_t GEMM_ROWS = 384;      // rows of x that a decoded tile serves: a multiple of every TILE_ROWS

struct GemmTask {
    const Matrix *weight;
    const uint16_t *x;  // [x_rows, columns], rows `stride` apart
    int64_t x_rows, stride;
    int64_t first, count;  // rows of the weight: at most GEMM_TILE
    float *wide;           // one of the two is null: y, rows `y_stride` apart
    uint16_t *rounded;
    int64_t y_stride;
};

template <class S>
struct Gemm {
    using F = typename S::F;
    using U = typename S::U;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, V = S::TILE_VECTORS;
    static_assert(GEMM_TILE % (V * L) == 0 && GEMM_ROWS % R == 0, "tiles are whole");

    // Scratch of a task: sums, one row of the weight for each lane, the tile, six rows of x in float32.
    static constexpr int64_t SUMS = 4 * GEMM_ROWS * GEMM_TILE, LINES = 4 * L * GEMM_COLUMNS;
    static constexpr int64_t PANEL = 4 * GEMM_COLUMNS * GEMM_TILE, WIDE = 4 * R * GEMM_COLUMNS;
    static int64_t bytes() { return SUMS + LINES + PANEL + WIDE; }

    static void run(const GemmTask &task, uint8_t *scratch) {
        float *sums = reinterpret_cast<float *>(scratch);
        uint8_t *lines = scratch + SUMS;
        uint32_t *panel = reinterpret_cast<uint32_t *>(scratch + SUMS + LINES);
        float *wide = reinterpret_cast<float *>(scratch + SUMS + LINES + PANEL);
        const Matrix &m = *task.weight;
        for (int64_t first = 0; first < m.columns; first += GEMM_COLUMNS) {
            const int64_t columns = m.columns - first < GEMM_COLUMNS ? m.columns - first : GEMM_COLUMNS;
            pack(task, first, columns, lines, panel);
            for (int64_t r = 0; r < task.x_rows; r += R) {
                const int64_t rows = task.x_rows - r < R ? task.x_rows - r : R;
                const uint16_t *x = task.x + r * task.stride + first;
                if (m.form == WF_FP32)
                    widened(x, task.stride, rows, columns, panel, first > 0, wide, sums + r * GEMM_TILE);
                else if (rows == R && columns % 2 == 0 && !(uintptr_t(x) & 3) && task.stride % 2 == 0)
                    tile<R>(reinterpret_cast<const uint32_t *>(x), task.stride / 2, panel, columns / 2, first > 0,
                            sums + r * GEMM_TILE);
                else
                    edge(x, task.stride, rows, columns, panel, first > 0, reinterpret_cast<uint32_t *>(wide),
                         sums + r * GEMM_TILE);
            }
        }
        for (int64_t r = 0; r < task.x_rows; r++) store(task, r, sums + r * GEMM_TILE);
    }

  private:
    // panel[k / 2][n] = (W[n, k], W[n, k + 1]); float32: panel[k][n] = W[n, k]. Rows beyond `count` are zero.
    static void pack(const GemmTask &task, int64_t first, int64_t columns, uint8_t *lines, uint32_t *panel) {
        const Matrix &m = *task.weight;
        const bool wide = m.form == WF_FP32;
        const int64_t words = wide ? columns : (columns + 1) / 2, whole = padded(words, L);
        uint32_t *line = reinterpret_cast<uint32_t *>(lines);
        for (int64_t n = 0; n < GEMM_TILE; n += L) {
            for (int64_t i = 0; i < L; i++) {
                uint32_t *mine = line + i * GEMM_COLUMNS;
                if (n + i >= task.count) {
                    std::memset(mine, 0, size_t(4 * whole));
                    continue;
                }
                std::memset(mine + words - 1, 0, size_t(4 * (whole - words + 1)));
                decode(m, task.first + n + i, first, columns, mine);
            }
            for (int64_t k = 0; k < whole; k += L)
                S::transpose(line + k, GEMM_COLUMNS, panel + k * GEMM_TILE + n, GEMM_TILE);
        }
    }

    // Columns first .. first + columns of a row, as they are multiplied; `first` is a multiple of 128.
    static WF_INLINE void decode(const Matrix &m, int64_t row, int64_t first, int64_t columns, uint32_t *out) {
        const uint8_t *codes = m.codes + row * m.row_bytes();
        uint16_t *values = reinterpret_cast<uint16_t *>(out);
        int64_t k = 0;
        switch (m.form) {
            case WF_FP4: {
                const uint8_t *scales = m.scales_of(row) + first / 32;
                codes += first / 2;
                for (; k + 32 <= columns; k += 32) S::fp4(codes + k / 2, scales[k / 32], values + k);
                break;
            }
            case WF_FP8: {
                const uint8_t *scales = m.scales_of(row) + first / 128;
                codes += first;
                for (; k + 128 <= columns; k += 128) S::fp8(codes + k, 128, scales[k / 128], values + k);
                for (; k + 32 <= columns; k += 32) S::fp8(codes + k, 32, scales[k / 128], values + k);
                break;
            }
            case WF_BF16: std::memcpy(values, codes + 2 * first, size_t(2 * columns)); return;
            default: std::memcpy(out, codes + 4 * first, size_t(4 * columns)); return;
        }
        for (; k < columns; k++) values[k] = float_to_bf16(value_at(m, row, first + k) * scale_at(m, row, first + k));
    }

    template <int N>
    static WF_INLINE void tile(const uint32_t *x, int64_t stride, const uint32_t *panel, int64_t pairs, bool more,
                               float *sums) {
        for (int64_t n = 0; n < GEMM_TILE; n += V * L) {
            F c[N][V];
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) c[r][j] = more ? S::load(sums + r * GEMM_TILE + n + j * L) : F{};
            product<S, N, V>(x, stride, panel + n, GEMM_TILE, pairs, c);
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) S::store(sums + r * GEMM_TILE + n + j * L, c[r][j]);
        }
    }

    // Rows that are too few, or that no pair begins at: copied beside zeros.
    static void edge(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel, bool more,
                     uint32_t *copy, float *sums) {
        for (int64_t r = 0; r < R; r++) {
            uint16_t *to = reinterpret_cast<uint16_t *>(copy + r * GEMM_COLUMNS);
            if (r < rows) std::memcpy(to, x + r * stride, size_t(2 * columns));
            else std::memset(to, 0, size_t(2 * columns));
            if (columns % 2) to[columns] = 0;
        }
        tile<R>(copy, GEMM_COLUMNS, panel, (columns + 1) / 2, more, sums);
    }

    static void widened(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel,
                        bool more, float *copy, float *sums) {
        for (int64_t r = 0; r < R; r++)
            for (int64_t k = 0; k < columns; k++)
                copy[r * GEMM_COLUMNS + k] = r < rows ? bf16_to_float(x[r * stride + k]) : 0;
        for (int64_t n = 0; n < GEMM_TILE; n += V * L) {
            F c[R][V];
            for (int r = 0; r < R; r++)
                for (int j = 0; j < V; j++) c[r][j] = more ? S::load(sums + r * GEMM_TILE + n + j * L) : F{};
            for (int64_t k = 0; k < columns; k++) {
                F right[V];
#pragma GCC unroll 8
                for (int j = 0; j < V; j++)
                    right[j] = S::load(reinterpret_cast<const float *>(panel) + k * GEMM_TILE + n + j * L);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    const F left = S::all(copy[r * GEMM_COLUMNS + k]);
#pragma GCC unroll 8
                    for (int j = 0; j < V; j++) c[r][j] = S::fma(left, right[j], c[r][j]);
                }
            }
            for (int r = 0; r < R; r++)
                for (int j = 0; j < V; j++) S::store(sums + r * GEMM_TILE + n + j * L, c[r][j]);
        }
    }

    static WF_INLINE void store(const GemmTask &task, int64_t r, const float *sums) {
        if (task.wide) {
            std::memcpy(task.wide + r * task.y_stride, sums, size_t(4 * task.count));
            return;
        }
        uint16_t *to = task.rounded + r * task.y_stride;
        alignas(64) uint16_t whole[GEMM_TILE];
        uint16_t *at = task.count == GEMM_TILE ? to : whole;
        for (int64_t n = 0; n < GEMM_TILE; n += L) S::narrow(at + n, S::load(sums + n));
        if (task.count < GEMM_TILE) std::memcpy(to, whole, size_t(2 * task.count));
    }
};

}  // namespace wf
