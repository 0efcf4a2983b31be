// y = x W^T for many rows of x in int8: 64 rows of the weight at a time become int8, laid out by fours of columns, then meet
// every row of x. Codes of a row and 128 columns share a power of two; where the scales of FP4 under them lie too far apart
// for one byte, the sums of 32 columns are multiplied by powers of two instead, with the same result.
//
// For 128 columns, g their groups of 32:  part = sum_g x_scale[g] * dot[g], y += part * scale: a rounding for each, in order.
#pragma once

#include "int8_rows.h"
#include "int8_vector.h"

namespace wf {

template <class S>
struct Int8Gemm {
    using F = typename S::F;
    using U = typename S::U;
    using B = typename S::B;
    static constexpr int L = S::LANES, R = S::INT8_TILE_ROWS, V = S::INT8_TILE_VECTORS;
    static constexpr int64_t T = INT8_TILE, CHUNKS = INT8_COLUMNS / CHUNK, GROUPS = CHUNK / INT8_GROUP;
    static constexpr int SPREAD = 3;  // powers of two that FP4's scales may lie apart: 12 << 3 is a code
    static_assert(T % (V * L) == 0 && INT8_ROWS % R == 0, "tiles are whole");

    struct Scratch {
        alignas(64) float sums[INT8_ROWS * T];
        alignas(64) uint8_t lines[L * INT8_COLUMNS];        // a row of the weight for each lane
        alignas(64) uint32_t panel[INT8_COLUMNS / 4 * T];   // [k / 4][n] = W[n, k .. k + 3]
        alignas(64) float scales[CHUNKS * T];               // [chunk][n]
        alignas(64) float ratios[CHUNKS * GROUPS * T];      // [group][n], where `wide[chunk]`
        bool wide[CHUNKS];
    };
    static int64_t bytes() { return int64_t(sizeof(Scratch) + 63) / 64 * 64; }

    static void gemm(const Int8Task &task, uint8_t *memory) {
        Scratch &scratch = *reinterpret_cast<Scratch *>(memory);
        const Matrix &m = *task.weight;
        const int64_t x_stride = int8_row_bytes(m.columns);
        for (int64_t r = 0; r < task.x_rows; r++) std::memset(scratch.sums + r * T, 0, 4 * T);
        for (int64_t first = 0; first < m.columns; first += INT8_COLUMNS) {
            const int64_t columns = m.columns - first < INT8_COLUMNS ? m.columns - first : INT8_COLUMNS;
            pack(task, first, columns, scratch);
            by_tiles<R>(task.x_rows, [&](auto rows, int64_t r) {
                constexpr int N = decltype(rows)::value;
                const uint8_t *x = task.x + r * x_stride;
                if (m.form == WF_FP4) tile<N, true>(m, x, first, columns, scratch, scratch.sums + r * T);
                else tile<N, false>(m, x, first, columns, scratch, scratch.sums + r * T);
            });
        }
        for (int64_t r = 0; r < task.x_rows; r++) store(task, r, scratch.sums + r * T);
    }

  private:
    static void pack(const Int8Task &task, int64_t first, int64_t columns, Scratch &scratch) {
        const Matrix &m = *task.weight;
        const int64_t chunks = (columns + CHUNK - 1) / CHUNK;
        for (int64_t c = 0; c < chunks; c++) scratch.wide[c] = false;
        if (m.form == WF_FP4)
            for (int64_t n = 0; n < task.count; n++) spreads(m, task.first + n, first, n, chunks, scratch);
        for (int64_t n = 0; n < T; n += L) {
            for (int64_t i = 0; i < L; i++) {
                uint8_t *line = scratch.lines + i * INT8_COLUMNS;
                const int64_t row = task.first + n + i;
                if (n + i >= task.count) blank(n + i, chunks, scratch, line);
                else if (m.form == WF_FP4) fp4(m, row, first, n + i, chunks, scratch, line);
                else fp8(m, row, first, n + i, chunks, scratch, line);
            }
            const uint32_t *words = reinterpret_cast<const uint32_t *>(scratch.lines);
            for (int64_t k = 0; k < chunks * CHUNK / 4; k += L)
                S::transpose(words + k, INT8_COLUMNS / 4, scratch.panel + k * T + n, T);
        }
    }

    static void blank(int64_t n, int64_t chunks, Scratch &scratch, uint8_t *line) {
        std::memset(line, S::OFFSET, size_t(chunks * CHUNK));
        for (int64_t c = 0; c < chunks; c++) {
            scratch.scales[c * T + n] = 0;
            for (int g = 0; g < GROUPS; g++) scratch.ratios[(c * GROUPS + g) * T + n] = 0;
        }
    }

    // Scale bytes of 128 columns; those beyond the row are the first's.
    static WF_INLINE void scale_bytes(const Matrix &m, int64_t row, int64_t column, uint8_t (&bytes)[GROUPS]) {
        const int64_t g = column / INT8_GROUP, count = m.row_scales() - g;
        const uint8_t *from = m.scales_of(row) + g;
        if (count >= GROUPS) return (void)std::memcpy(bytes, from, sizeof bytes);
        for (int i = 0; i < GROUPS; i++) bytes[i] = from[i < count ? i : 0];
    }
    static WF_INLINE uint8_t largest(const uint8_t (&bytes)[GROUPS]) {
        const uint8_t a = bytes[0] > bytes[1] ? bytes[0] : bytes[1], b = bytes[2] > bytes[3] ? bytes[2] : bytes[3];
        return a > b ? a : b;
    }

    // Which chunks have scales too far apart, and each row's scale of a chunk.
    static void spreads(const Matrix &m, int64_t row, int64_t first, int64_t n, int64_t chunks, Scratch &scratch) {
        for (int64_t c = 0; c < chunks; c++) {
            uint8_t bytes[GROUPS];
            scale_bytes(m, row, first + c * CHUNK, bytes);
            const uint8_t top = largest(bytes);
            scratch.scales[c * T + n] = e8m0_to_float(top) * (0.5f / (1 << SPREAD));
            for (int g = 0; g < GROUPS; g++) scratch.wide[c] |= top - bytes[g] > SPREAD;
        }
    }

    static void fp4(const Matrix &m, int64_t row, int64_t first, int64_t n, int64_t chunks, Scratch &scratch,
                    uint8_t *line) {
        const uint8_t *codes = m.codes + row * m.row_bytes() + first / 2;
        for (int64_t c = 0; c < chunks; c++, line += CHUNK) {
            uint8_t bytes[GROUPS], whole[CHUNK / 2];
            scale_bytes(m, row, first + c * CHUNK, bytes);
            const uint8_t top = largest(bytes), *from = codes + c * CHUNK / 2, *tables[GROUPS];
            for (int g = 0; g < GROUPS; g++) {
                const int shift = SPREAD - (top - bytes[g]);
                if (scratch.wide[c])  // 2^shift; what lies 2^130 below the largest is zero
                    scratch.ratios[(c * GROUPS + g) * T + n] = shift < -126 ? 0 : bits_to_float(uint32_t(127 + shift) << 23);
                tables[g] = int8_of_e2m1(scratch.wide[c] ? 0 : shift, S::OFFSET);
            }
            const int64_t left = m.row_bytes() - first / 2 - c * CHUNK / 2;
            if (left < CHUNK / 2) {
                std::memset(whole, 0, sizeof whole);
                std::memcpy(whole, from, size_t(left));
                from = whole;
            }
            for (int i = 0; i < CHUNK / 2; i += 4 * L) {
                const uint8_t *const mine[4] = {tables[i / 16], tables[i / 16 + (L > 4)], tables[i / 16 + L / 16 * 2],
                                                tables[i / 16 + L / 16 * 3]};
                const B table = S::tables(mine), both = S::template read<B>(from + i);
                S::write(line + i, S::look_up(table, both & 15));
                S::write(line + CHUNK / 2 + i, S::look_up(table, both >> 4));
            }
        }
    }

    static void fp8(const Matrix &m, int64_t row, int64_t first, int64_t n, int64_t chunks, Scratch &scratch,
                    uint8_t *line) {
        const uint8_t *codes = m.codes + row * m.row_bytes() + first, *scales = m.scales_of(row) + first / CHUNK;
        for (int64_t c = 0; c < chunks; c++, line += CHUNK, codes += CHUNK) {
            uint8_t whole[CHUNK];
            const uint8_t *from = codes;
            const int64_t left = m.columns - first - c * CHUNK;
            if (left < CHUNK) {
                std::memset(whole, 0, sizeof whole);
                std::memcpy(whole, from, size_t(left));
                from = whole;
            }
            const uint8_t highest = S::highest(from);
            const int top = highest < 32 ? 4 : highest >> 3;
            S::e4m3_codes(from, int8_of_e4m3(top), S::OFFSET, line);
            const float unit = bits_to_float(highest == 127 ? 0x7FC00000 : uint32_t(127 + top - 13) << 23);
            scratch.scales[c * T + n] = e8m0_to_float(scales[c]) * unit;
        }
    }

    // The products of a group: N rows of x, V vectors of weights.
    template <int N, bool SPLIT>
    static WF_INLINE void group(const uint8_t *const (&x)[N], int64_t width, int64_t column, const uint32_t *panel,
                                U (&dots)[N][V]) {
        const int64_t g = column / INT8_GROUP;
#pragma GCC unroll 8
        for (int r = 0; r < N; r++) {
            U start = {};
            if (S::OFFSET) start = S::all_pairs(word(x[r] + width + width / INT8_GROUP * 4 + 4 * g));
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) dots[r][j] = start;
        }
#pragma GCC unroll 8
        for (int i = 0; i < INT8_GROUP / 4; i++) {
            // bytes of the chunk that hold the group's columns: 32, or 16 of each half
            const int64_t at = !SPLIT ? column + 4 * i
                                      : column / CHUNK * CHUNK + column % CHUNK / 2 + 4 * (i % 4) + i / 4 * (CHUNK / 2);
            B w[V];
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) w[j] = (B)S::pairs(panel + at % INT8_COLUMNS / 4 * T + j * L);
#pragma GCC unroll 8
            for (int r = 0; r < N; r++) {
                const B four = (B)S::all_pairs(word(x[r] + at));
#pragma GCC unroll 8
                for (int j = 0; j < V; j++) dots[r][j] = S::dot4(dots[r][j], w[j], four);
            }
        }
    }
    static WF_INLINE uint32_t word(const uint8_t *from) { return S::template read<uint32_t>(from); }

    template <int N, bool SPLIT>
    static void tile(const Matrix &m, const uint8_t *x, int64_t first, int64_t columns, const Scratch &scratch,
                     float *sums) {
        const int64_t width = int8_width(m.columns), x_stride = int8_row_bytes(m.columns);
        const uint8_t *rows[N];
        for (int r = 0; r < N; r++) rows[r] = x + r * x_stride;
        alignas(64) float parts[N][V * L];
        for (int64_t n = 0; n < T; n += V * L)
            for (int64_t k = 0; k < columns; k += CHUNK) {
                const int64_t c = k / CHUNK;
                for (int64_t g = 0; g < GROUPS; g++) {
                    const int64_t column = first + k + g * INT8_GROUP;
                    U dots[N][V];
                    group<N, SPLIT>(rows, width, column, scratch.panel + n, dots);
                    const float *ratios = SPLIT && scratch.wide[c] ? scratch.ratios + (c * GROUPS + g) * T + n : nullptr;
#pragma GCC unroll 8
                    for (int r = 0; r < N; r++) {
                        const F scale = S::all(bits_to_float(word(rows[r] + width + column / INT8_GROUP * 4)));
#pragma GCC unroll 8
                        for (int j = 0; j < V; j++) {
                            F dot = S::floats(dots[r][j]), *to;
                            if (ratios) dot = dot * S::load(ratios + j * L);
                            (void)to;
                            float *part = parts[r] + j * L;
                            S::store(part, g ? S::fma(scale, dot, S::load(part)) : scale * dot);
                        }
                    }
                }
                for (int r = 0; r < N; r++)
                    for (int j = 0; j < V; j++) {
                        float *sum = sums + r * T + n + j * L;
                        const F scale = S::load(scratch.scales + c * T + n + j * L);
                        S::store(sum, S::fma(S::load(parts[r] + j * L), scale, S::load(sum)));
                    }
            }
    }

    static WF_INLINE void store(const Int8Task &task, int64_t r, const float *sums) {
        if (task.wide) {
            std::memcpy(task.wide + r * task.y_stride, sums, size_t(4 * task.count));
            return;
        }
        uint16_t *to = task.rounded + r * task.y_stride;
        for (int64_t n = 0; n < task.count; n++) to[n] = float_to_bf16(sums[n]);
    }
};

template <class S>
constexpr Int8Kernels int8_kernels(bool (*supported)(), const Int8Kernels *otherwise) {
    using Few = Int8Few<S>;
    using Many = Int8Gemm<S>;
    return {supported, otherwise, Few::arranged_bytes, Few::arrange, Few::rows, Many::bytes, Many::gemm};
}

}  // namespace wf
