// Products of pairs of bfloat16, for instruction sets that have them: a tile of the weight is laid out by pairs of columns.
#pragma once

#include "gemm.h"

namespace wf {

template <class S>
struct PairGemm : TiledGemm<S, PairGemm<S>> {
    using F = typename S::F;
    using Parts = GemmParts<S>;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, V = S::TILE_VECTORS;
    static constexpr int64_t COLUMNS = 1024, LINE = COLUMNS;
    static_assert(GEMM_TILE % (V * L) == 0 && GEMM_ROWS % R == 0, "tiles are whole");

    // panel[k / 2][n] = (W[n, k], W[n, k + 1]). Rows beyond `count` are zero.
    static void pack(const GemmTask &task, int64_t first, int64_t columns, uint32_t *lines, uint32_t *panel) {
        const int64_t words = (columns + 1) / 2;
        for (int64_t n = 0; n < GEMM_TILE; n += L) {
            Parts::decode_lines(task, n, first, columns, words, false, lines, COLUMNS);
            for (int64_t k = 0; k < words; k += L)
                S::transpose(lines + k, COLUMNS, panel + k * GEMM_TILE + n, GEMM_TILE);
        }
    }

    static void multiply(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel,
                         bool more, uint32_t *copy, float *sums) {
        if (rows == R && columns % 2 == 0 && !(uintptr_t(x) & 3) && stride % 2 == 0)
            tile(reinterpret_cast<const uint32_t *>(x), stride / 2, panel, columns / 2, more, sums);
        else edge(x, stride, rows, columns, panel, more, copy, sums);
    }

  private:
    static void tile(const uint32_t *x, int64_t stride, const uint32_t *panel, int64_t pairs, bool more, float *sums) {
        for (int64_t n = 0; n < GEMM_TILE; n += V * L) {
            F c[R][V];
            for (int r = 0; r < R; r++)
                for (int j = 0; j < V; j++) c[r][j] = more ? S::load(sums + r * GEMM_TILE + n + j * L) : F{};
            product<S, R, V>(x, stride, panel + n, GEMM_TILE, pairs, c);
            for (int r = 0; r < R; r++)
                for (int j = 0; j < V; j++) S::store(sums + r * GEMM_TILE + n + j * L, c[r][j]);
        }
    }

    // Rows that are too few, or that no pair begins at: copied beside zeros.
    static void edge(const uint16_t *x, int64_t stride, int64_t rows, int64_t columns, const uint32_t *panel, bool more,
                     uint32_t *copy, float *sums) {
        for (int64_t r = 0; r < R; r++) {
            uint16_t *to = reinterpret_cast<uint16_t *>(copy + r * COLUMNS);
            if (r < rows) std::memcpy(to, x + r * stride, size_t(2 * columns));
            else std::memset(to, 0, size_t(2 * columns));
            if (columns % 2) to[columns] = 0;
        }
        tile(copy, COLUMNS, panel, (columns + 1) / 2, more, sums);
    }
};

}  // namespace wf
