// y = x W^T for many rows of x: what both ways have in common (ops/reference/linear.py). 64 rows of the weight at a time are
// decoded, then meet every row of x: as pairs of bfloat16 (gemm_pairs.h) or in float32 (gemm_float.h). A block of columns
// after another, so that both stay in the cache; each output element is summed in the columns' order, whatever x_rows.
#pragma once

#include <type_traits>

#include "blocks.h"
#include "gguf_values.h"
#include "rows.h"
#include "simd.h"

namespace wf {

constexpr int64_t GEMM_TILE = 64;   // rows of a weight decoded together
constexpr int64_t GEMM_ROWS = 384;  // rows of x that a decoded tile serves: a multiple of every TILE_ROWS

struct GemmTask {
    const Matrix *weight;
    const ManyRows *blocks;
    const uint16_t *x;  // [x_rows, columns], rows `stride` apart
    int64_t x_rows, stride;
    int64_t first, count;  // rows of the weight: at most GEMM_TILE
    float *wide;           // one of the two is null: y, rows `y_stride` apart
    uint16_t *rounded;
    int64_t y_stride;
};

template <class S>
struct GemmParts {
    using F = typename S::F;
    static constexpr int L = S::LANES;

    // Columns first .. first + columns of a row: bfloat16, or float32 of a matrix in it; `first` is a multiple of 256. `wide`:
    // in float32 where bfloat16 may not hold them.
    static WF_INLINE void decode(const GemmTask &task, int64_t row, int64_t first, int64_t columns, bool wide,
                                 uint32_t *out) {
        const Matrix &m = *task.weight;
        if (m.form == WF_F16) return values_of(m, row, first, columns, reinterpret_cast<float *>(out));
        if (is_blocks(m.form)) return decode_blocks(task, row, first, columns, wide, out);
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

    static void decode_blocks(const GemmTask &task, int64_t row, int64_t first, int64_t columns, bool wide,
                              uint32_t *out) {
        constexpr int64_t SOME = 4;
        BlockUnit units[SOME];
        for (int64_t k = 0; k < columns; k += SOME * UNIT) {
            const int64_t left = columns - k, count = left < SOME * UNIT ? left : SOME * UNIT;
            task.blocks->take_apart(*task.weight, row, first + k, count, units);
            for (int64_t i = 0; i < count; i += 16) {
                const BlockUnit &unit = units[i / UNIT];
                const int64_t at = i % UNIT;
                const F scale = S::all(unit.scales[at / 16]), minimum = S::all(unit.minima[at / 16]);
#pragma GCC unroll 4
                for (int64_t j = 0; j < 16; j += L) {
                    const F values = S::of_bytes(unit.codes + at + j) * scale - minimum;
                    if (wide) S::store(reinterpret_cast<float *>(out) + k + i + j, values);
                    else S::narrow(reinterpret_cast<uint16_t *>(out) + k + i + j, values);
                }
            }
        }
    }

    // `lines`: L rows of the weight from row `n` of the task on, `stride` words apart, zeros beyond its rows and columns up
    // to whole vectors of `words`.
    static void decode_lines(const GemmTask &task, int64_t n, int64_t first, int64_t columns, int64_t words, bool wide,
                             uint32_t *lines, int64_t stride) {
        const int64_t whole = padded(words, L);
        for (int64_t i = 0; i < L; i++) {
            uint32_t *line = lines + i * stride;
            if (n + i >= task.count) {
                std::memset(line, 0, size_t(4 * whole));
                continue;
            }
            std::memset(line + words - 1, 0, size_t(4 * (whole - words + 1)));
            decode(task, task.first + n + i, first, columns, wide, line);
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

// A task in one of the two ways: COLUMNS columns of the tile at a time, laid out by `pack` from lines of LINE words, meet R rows
// of x at a time in `multiply`, which may copy these rows.
template <class S, class Way>
struct TiledGemm : GemmParts<S> {
    static int64_t bytes() { return sums_bytes() + lines_bytes() + panel_bytes() + 4 * Way::R * Way::LINE; }

    static void run(const GemmTask &task, uint8_t *scratch) {
        float *sums = reinterpret_cast<float *>(scratch);
        uint32_t *lines = reinterpret_cast<uint32_t *>(scratch += sums_bytes());
        uint32_t *panel = reinterpret_cast<uint32_t *>(scratch += lines_bytes());
        uint32_t *copy = reinterpret_cast<uint32_t *>(scratch += panel_bytes());
        const Matrix &m = *task.weight;
        for (int64_t first = 0; first < m.columns; first += Way::COLUMNS) {
            const int64_t columns = m.columns - first < Way::COLUMNS ? m.columns - first : Way::COLUMNS;
            Way::pack(task, first, columns, lines, panel);
            for (int64_t r = 0; r < task.x_rows; r += Way::R) {
                const int64_t rows = task.x_rows - r < Way::R ? task.x_rows - r : Way::R;
                const uint16_t *x = task.x + r * task.stride + first;
                Way::multiply(x, task.stride, rows, columns, panel, first > 0, copy, sums + r * GEMM_TILE);
            }
        }
        for (int64_t r = 0; r < task.x_rows; r++) GemmParts<S>::store(task, r, sums + r * GEMM_TILE);
    }

  private:
    static constexpr int64_t sums_bytes() { return 4 * GEMM_ROWS * GEMM_TILE; }
    static constexpr int64_t lines_bytes() { return 4 * S::LANES * Way::LINE; }  // a row of the weight for each lane
    static constexpr int64_t panel_bytes() { return 4 * Way::LINE * GEMM_TILE; }
};

}  // namespace wf
