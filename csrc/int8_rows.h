// A row of an FP4 matrix against up to INT8_FEW rows of x in int8: 4 L bytes of codes come apart into their low and their high
// nibbles, 8 L columns, which lane l holds eight of. One scale of x and one of the weight belong to four lanes.
//
// x, for each 8 L columns: the even ones' codes, the odd ones', -128 times each lane's sum where weights are unsigned, and the
// scale of each lane, halved as e2m1 values are doubled. A lane's sum goes through the columns in order, whatever x_rows.
#pragma once

#include "int8_vector.h"

namespace wf {

template <class S>
struct Int8Few {
    using F = typename S::F;
    using U = typename S::U;
    using B = typename S::B;
    static constexpr int L = S::LANES, COLUMNS = 8 * L, BYTES = 4 * L, SCALES = L / 4;
    static constexpr int UNIT = 8 * L + 4 * L + (S::OFFSET ? 4 * L : 0);  // bytes of x for COLUMNS
    static constexpr int UNITS = 16 / SCALES;                             // that share a load of scales
    static constexpr int TURNS = 8;                                       // rows of a weight that take turns

    static int64_t units(const Matrix &m) { return (m.columns + COLUMNS - 1) / COLUMNS; }
    static int64_t arranged_bytes(const Matrix &m) { return (units(m) * UNIT + 63) / 64 * 64; }

    static void arrange(const Matrix &m, const uint16_t *x, void *arranged) {
        uint8_t *unit = static_cast<uint8_t *>(arranged);
        for (int64_t k = 0; k < m.columns; k += COLUMNS, unit += UNIT) {
            int32_t sums[L];
            float scales[L];
            for (int g = 0; g < SCALES; g++) {
                int8_t codes[INT8_GROUP];
                const int64_t first = k + g * INT8_GROUP, left = m.columns - first;
                const float scale =
                    int8_group(x + first, left < 0 ? 0 : left < INT8_GROUP ? left : INT8_GROUP, codes);
                uint8_t *even = unit + g * INT8_GROUP / 2, *odd = even + BYTES;
                for (int i = 0; i < INT8_GROUP / 2; i++)
                    even[i] = uint8_t(codes[2 * i]), odd[i] = uint8_t(codes[2 * i + 1]);
                for (int l = 0; l < 4; l++) {
                    int32_t sum = 0;
                    for (int i = 8 * l; i < 8 * l + 8; i++) sum += codes[i];
                    sums[4 * g + l] = -S::OFFSET * sum, scales[4 * g + l] = scale / 2;
                }
            }
            uint8_t *behind = unit + 2 * BYTES;
            if (S::OFFSET) std::memcpy(behind, sums, sizeof sums), behind += sizeof sums;
            std::memcpy(behind, scales, sizeof scales);
        }
    }

    template <int R>
    static WF_INLINE void unit(const uint8_t *codes, B table, F scale, const uint8_t *x, int64_t x_stride,
                               F (&sum)[R]) {
        const B both = S::template read<B>(codes);
        const B low = S::look_up(table, both & 15), high = S::look_up(table, both >> 4);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const uint8_t *mine = x + r * x_stride;
            U dot = {};
            if (S::OFFSET) dot = S::template read<U>(mine + 2 * BYTES);
            dot = S::dot4(dot, low, S::template read<B>(mine));
            dot = S::dot4(dot, high, S::template read<B>(mine + BYTES));
            const F x_scale = S::template read<F>(mine + UNIT - 4 * L);
            sum[r] = S::fma(S::floats(dot) * x_scale, scale, sum[r]);
        }
    }

    // Units u .. u + count of row n, with their scales in 16 bytes that may be read.
    template <int R>
    static WF_INLINE void block(const uint8_t *codes, const uint8_t *scales, int count, int64_t ahead, B table,
                                const uint8_t *x, int64_t x_stride, F (&sum)[R]) {
        if (count == UNITS) {
#pragma GCC unroll 4
            for (int i = 0; i < UNITS; i++) {
                if (i % (UNITS / 4) == 0) __builtin_prefetch(codes + i * BYTES + ahead);
                unit<R>(codes + i * BYTES, table, S::scales(scales, i * SCALES), x + i * UNIT, x_stride, sum);
            }
            return;
        }
        for (int i = 0; i < count; i++) {
            unit<R>(codes + i * BYTES, table, S::scales(scales, i * SCALES), x + i * UNIT, x_stride, sum);
        }
    }

    template <int R>
    static WF_INLINE void last(const Matrix &m, int64_t n, int64_t u, B table, const uint8_t *x, int64_t x_stride,
                               F (&sum)[R]) {
        alignas(64) uint8_t codes[UNITS * BYTES] = {}, scales[16] = {};  // beside zeros
        const int64_t row_bytes = m.row_bytes();
        std::memcpy(codes, m.codes + n * row_bytes + u * BYTES, size_t(row_bytes - u * BYTES));
        std::memcpy(scales, m.scales_of(n) + u * SCALES, size_t(m.row_scales() - u * SCALES));
        block<R>(codes, scales, int(units(m) - u), 0, table, x + u * UNIT, x_stride, sum);
    }

    template <int R>
    static void rows_of(const Matrix &m, const uint8_t *x, int64_t first, int64_t end, float *y, int64_t stride) {
        const uint8_t *plain = int8_of_e2m1(0, S::OFFSET), *const four[4] = {plain, plain, plain, plain};
        const B table = S::tables(four);
        const int64_t whole = m.columns / (UNITS * COLUMNS) * UNITS, all = units(m), x_stride = arranged_bytes(m);
        const int64_t row_bytes = m.row_bytes(), ahead = TURNS * row_bytes;
        for (; first < end; first += TURNS) {
            const int rows = int(end - first < TURNS ? end - first : TURNS);
            F sums[TURNS][R] = {};
            for (int64_t u = 0; u < whole; u += UNITS)
                for (int i = 0; i < rows; i++) {
                    F sum[R];
                    for (int r = 0; r < R; r++) sum[r] = sums[i][r];
                    block<R>(m.codes + (first + i) * row_bytes + u * BYTES, m.scales_of(first + i) + u * SCALES, UNITS,
                             ahead, table, x + u * UNIT, x_stride, sum);
                    for (int r = 0; r < R; r++) sums[i][r] = sum[r];
                }
            for (int i = 0; i < rows; i++) {
                if (whole < all) last<R>(m, first + i, whole, table, x, x_stride, sums[i]);
                for (int r = 0; r < R; r++) y[r * stride + first + i] = S::sum(sums[i][r]);
            }
        }
    }

    static void rows(const Matrix &m, const uint8_t *x, int x_rows, int64_t first, int64_t end, float *y,
                     int64_t stride) {
        static_assert(INT8_FEW == 8, "a case each");
        switch (x_rows) {
            case 1: return rows_of<1>(m, x, first, end, y, stride);
            case 2: return rows_of<2>(m, x, first, end, y, stride);
            case 3: return rows_of<3>(m, x, first, end, y, stride);
            case 4: return rows_of<4>(m, x, first, end, y, stride);
            case 5: return rows_of<5>(m, x, first, end, y, stride);
            case 6: return rows_of<6>(m, x, first, end, y, stride);
            case 7: return rows_of<7>(m, x, first, end, y, stride);
            default: return rows_of<8>(m, x, first, end, y, stride);
        }
    }
};

}  // namespace wf
