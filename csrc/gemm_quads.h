// Products of two rows of x and two of the weight, four bfloat16 of each, for instruction sets that have them: a tile of the weight
// and a few rows of x at a time are laid out by fours of columns, two rows side by side. Each element's sum has the steps and
// the order of gemm_pairs.h.
#pragma once

#include "gemm.h"

namespace wf {

template <class S>
struct QuadGemm : TiledGemm<S, QuadGemm<S>> {
    using F = typename S::F;
    using U = typename S::U;
    using Parts = GemmParts<S>;
    static constexpr int L = S::LANES, R = 8, V = 2;  // rows of x, vectors of rows of the weight: 16 sums of 2 x 2
    static constexpr int64_t COLUMNS = 1024, LINE = COLUMNS;
    static_assert(L == 4 && GEMM_TILE % (V * L) == 0 && GEMM_ROWS % R == 0, "tiles are whole");

    // panel[k / 4][n / 2] = (W[n, k .. k + 4], W[n + 1, k .. k + 4]). Rows beyond `count` are zero, as are columns.
    static void pack(const GemmTask &task, int64_t first, int64_t columns, uint32_t *lines, uint32_t *panel) {
        const int64_t words = (columns + 1) / 2;
        for (int64_t n = 0; n < GEMM_TILE; n += L) {
            Parts::decode_lines(task, n, first, columns, words, false, lines, COLUMNS);
            for (int64_t k = 0; k < words; k += L)
                for (int i = 0; i < L; i += 2)
                    put(lines + i * COLUMNS + k, lines + (i + 1) * COLUMNS + k, panel + k * GEMM_TILE + 2 * (n + i),
                        2 * GEMM_TILE);
        }
    }

    static void multiply(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel,
                         bool more, uint32_t *copy, float *sums) {
        const int64_t fours = (columns + 3) / 4;
        for (int64_t r = 0; r < R; r += 2) {
            const uint16_t *two[2] = {r < rows ? x + r * stride : nullptr,
                                      r + 1 < rows ? x + (r + 1) * stride : nullptr};
            lay_out(two, columns, copy + 2 * r);
        }
        for (int64_t n = 0; n < GEMM_TILE; n += V * L) tile(copy, panel + 2 * n, fours, more, sums + n);
    }

  private:
    // Four words of two rows, two and two side by side.
    static WF_INLINE void put(const uint32_t *a, const uint32_t *b, uint32_t *to, int64_t stride) {
        const U first = S::pairs(a), last = S::pairs(b);
        S::write(to, S::first_halves(first, last)), S::write(to + stride, S::last_halves(first, last));
    }

    // to[k / 4] is a vector of each row's columns k .. k + 4, 2 R words apart; a row that is null is zero.
    static void lay_out(const uint16_t *const (&rows)[2], int64_t columns, uint32_t *to) {
        for (int64_t k = 0; k < columns; k += 8, to += 4 * R) {
            const int64_t left = columns - k, count = left < 8 ? left : 8;
            uint32_t words[2][4] = {};
            for (int i = 0; i < 2; i++) {
                if (!rows[i]) continue;
                if (count == 8) std::memcpy(words[i], rows[i] + k, 16);
                else std::memcpy(words[i], rows[i] + k, size_t(2 * count));
            }
            put(words[0], words[1], to, 2 * R);
        }
    }

    static void tile(const uint32_t *x, const uint32_t *panel, int64_t fours, bool more, float *sums) {
        F c[R / 2][2 * V] = {};
        if (more)
            for (int r = 0; r < R; r += 2)
                for (int j = 0; j < V; j++) {
                    const U a = S::pairs(words(sums, r, j)), b = S::pairs(words(sums, r + 1, j));
                    c[r / 2][2 * j] = S::bits(S::first_halves(a, b)),
                                 c[r / 2][2 * j + 1] = S::bits(S::last_halves(a, b));
                }
        for (int64_t k = 0; k < fours; k++, x += 2 * R, panel += 2 * GEMM_TILE) {
            U left[R / 2];
#pragma GCC unroll 4
            for (int r = 0; r < R / 2; r++) left[r] = S::pairs(x + r * L);
#pragma GCC unroll 4
            for (int j = 0; j < 2 * V; j++) {
                const U right = S::pairs(panel + j * L);
#pragma GCC unroll 4
                for (int r = 0; r < R / 2; r++) c[r][j] = S::quads(c[r][j], left[r], right);
            }
        }
        for (int r = 0; r < R; r += 2)
            for (int j = 0; j < V; j++) {
                const U a = (U)c[r / 2][2 * j], b = (U)c[r / 2][2 * j + 1];
                S::store(sums + r * GEMM_TILE + j * L, S::bits(S::first_halves(a, b)));
                S::store(sums + (r + 1) * GEMM_TILE + j * L, S::bits(S::last_halves(a, b)));
            }
    }
    static WF_INLINE const uint32_t *words(const float *sums, int r, int j) {
        return reinterpret_cast<const uint32_t *>(sums + r * GEMM_TILE + j * L);
    }
};

}  // namespace wf
