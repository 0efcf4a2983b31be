// Products of bfloat16 matrices in training, sums in float32 (ops/native/multiply.py): C = sum over factors of A_f B_f.
//
//   y = x W^T            A rows of x                   B W, turned
//   grad x = g W + ..    A rows of g                   B rows of W
//   grad W = g^T x       A g, turned                   B rows of x
//
// A task is a block of rows and of columns of C. Its sums are made in the order of the depth, whatever the task.
#pragma once

#include "lanes.h"

namespace wf {

constexpr int64_t MULTIPLY_ROWS = 192, MULTIPLY_COLUMNS = 256, MULTIPLY_DEPTH = 256, MULTIPLY_PANEL = 64;

struct Factor {
    const uint16_t *a, *b;
    int64_t a_stride, b_stride, depth;
    bool a_turned;  // A lies as [depth, rows], not [rows, depth]
    bool b_turned;  // B lies as [columns, depth], not [depth, columns]
};

struct Multiply {
    const Factor *factors;
    int64_t num_factors, rows, columns;
    uint16_t *out;  // one of the two, rows `out_stride` apart
    float *wide;
    int64_t out_stride;
    bool more;  // added to `wide`
};

// Pairs along the depth, laid out for products: [pair][column], `stride` words apart.
template <class S>
struct Pairs {
    static constexpr int L = S::LANES;

    // Of rows [depth, columns]; a row beyond an odd depth is zero, and so are columns up to a multiple of L.
    static WF_INLINE void zip(const uint16_t *rows, int64_t row_stride, int64_t depth, int64_t columns, uint32_t *out,
                              int64_t stride) {
        for (int64_t k = 0; k < depth; k += 2, out += stride) {
            const uint16_t *low = rows + k * row_stride, *high = low + row_stride;
            int64_t n = 0;
            if (k + 1 < depth)
                for (; n + L <= columns; n += L) S::write(out + n, S::zip(low + n, high + n));
            for (; n < columns; n++) out[n] = low[n] | (k + 1 < depth ? uint32_t(high[n]) << 16 : 0);
            for (; n % L; n++) out[n] = 0;
        }
    }

    // Of rows [columns, depth]; the depth is even.
    static WF_INLINE void turn(const uint16_t *rows, int64_t row_stride, int64_t depth, int64_t columns, uint32_t *out,
                               int64_t stride) {
        const int64_t words = depth / 2;
        for (int64_t n = 0; n < columns; n += L) {
            const uint16_t *first = rows + n * row_stride;
            int64_t word = 0;
            if (n + L <= columns)
                for (; word + L <= words; word += L)
                    S::transpose(reinterpret_cast<const uint32_t *>(first) + word, row_stride / 2,
                                 out + word * stride + n, stride);
            for (; word < words; word++)
                for (int64_t l = 0; l < L; l++)
                    out[word * stride + n + l] =
                        n + l < columns ? S::template read<uint32_t>(first + l * row_stride + 2 * word) : 0;
        }
    }
};

// c[r][v] += sum over pairs of A[r][pair] B[pair][v]; words of A lie `row` apart by rows and `pair` by pairs.
template <class S, int N, int M>
WF_INLINE void multiply_tile(const uint32_t *a, int64_t row, int64_t pair, const uint32_t *b, int64_t stride,
                             int64_t pairs, typename S::F (&c)[N][M]) {
    for (int64_t i = 0; i < pairs; i++, b += stride) {
        typename S::U right[M];
#pragma GCC unroll 8
        for (int v = 0; v < M; v++) right[v] = S::pairs(b + v * S::LANES);
#pragma GCC unroll 8
        for (int r = 0; r < N; r++) {
            const typename S::U left = S::all_pairs(S::template read<uint32_t>(a + r * row + i * pair));
#pragma GCC unroll 8
            for (int v = 0; v < M; v++) c[r][v] = S::dot(c[r][v], left, right[v]);
        }
    }
}

template <class S>
struct MultiplyKernel {
    using F = typename S::F;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, T = S::TILE_VECTORS;
    static constexpr int64_t PANEL = MULTIPLY_PANEL, ZIPPED = MULTIPLY_ROWS + 16;
    static_assert(PANEL % (T * L) == 0, "tiles are whole");

    static int64_t bytes() { return 2 * MULTIPLY_DEPTH * (PANEL + ZIPPED) + 4 * MULTIPLY_ROWS * MULTIPLY_COLUMNS; }

    // Rows row .. row + rows and columns column .. column + columns, at most MULTIPLY_ROWS and MULTIPLY_COLUMNS.
    static void run(const Multiply &job, int64_t row, int64_t rows, int64_t column, int64_t columns, uint8_t *scratch) {
        uint32_t *panel = reinterpret_cast<uint32_t *>(scratch);
        uint32_t *zipped = reinterpret_cast<uint32_t *>(scratch += 2 * MULTIPLY_DEPTH * PANEL);
        float *sums = reinterpret_cast<float *>(scratch + 2 * MULTIPLY_DEPTH * ZIPPED);
        bool first = true;
        for (int64_t f = 0; f < job.num_factors; f++) {
            const Factor &factor = job.factors[f];
            for (int64_t k = 0; k < factor.depth; k += MULTIPLY_DEPTH, first = false) {
                const int64_t depth = factor.depth - k < MULTIPLY_DEPTH ? factor.depth - k : MULTIPLY_DEPTH;
                const bool last = f + 1 == job.num_factors && k + depth == factor.depth;
                const uint16_t *a =
                    factor.a + (factor.a_turned ? k * factor.a_stride + row : row * factor.a_stride + k);
                if (factor.a_turned) Pairs<S>::zip(a, factor.a_stride, depth, rows, zipped, ZIPPED);
                for (int64_t n = 0; n < columns; n += PANEL) {
                    const int64_t width = columns - n < PANEL ? columns - n : PANEL, at = column + n;
                    if (factor.b_turned)
                        Pairs<S>::turn(factor.b + at * factor.b_stride + k, factor.b_stride, depth, width, panel,
                                       PANEL);
                    else
                        Pairs<S>::zip(factor.b + k * factor.b_stride + at, factor.b_stride, depth, width, panel, PANEL);
                    const Part part = {job, row, at, width, panel, (depth + 1) / 2, sums + n, first, last};
                    if (factor.a_turned) part.rows(zipped, rows, 1, ZIPPED);
                    else part.rows(reinterpret_cast<const uint32_t *>(a), rows, factor.a_stride / 2, 1);
                }
            }
        }
    }

  private:
    // A block of the depth for the columns of a panel. Two of its calls differ in a constant of the addresses.
    struct Part {
        const Multiply &job;
        int64_t row, column, width;
        const uint32_t *panel;
        int64_t pairs;
        float *sums;
        bool first, last;

        void rows(const uint32_t *a, int64_t count, int64_t by_row, int64_t by_pair) const {
            int64_t n = 0;
            for (; n + (T - 1) * L < width; n += T * L) vectors<T>(a, count, by_row, by_pair, n);
            if constexpr (T > 2)
                for (; n + L < width; n += 2 * L) vectors<2>(a, count, by_row, by_pair, n);
            for (; n < width; n += L) vectors<1>(a, count, by_row, by_pair, n);
        }

        template <int M>
        void vectors(const uint32_t *a, int64_t count, int64_t by_row, int64_t by_pair, int64_t n) const {
            by_tiles<R>(count, [&](auto tile, int64_t r) __attribute__((always_inline)) {
                constexpr int N = decltype(tile)::value;
                F c[N][M];
                float *mine = sums + r * MULTIPLY_COLUMNS + n;
#pragma GCC unroll 8
                for (int i = 0; i < N; i++)
#pragma GCC unroll 8
                    for (int v = 0; v < M; v++) c[i][v] = first ? F{} : S::load(mine + i * MULTIPLY_COLUMNS + v * L);
                if (by_row == 1) multiply_tile<S, N, M>(a + r, 1, by_pair, panel + n, PANEL, pairs, c);
                else multiply_tile<S, N, M>(a + r * by_row, by_row, 1, panel + n, PANEL, pairs, c);
#pragma GCC unroll 8
                for (int i = 0; i < N; i++)
#pragma GCC unroll 8
                    for (int v = 0; v < M; v++) {
                        if (!last) S::store(mine + i * MULTIPLY_COLUMNS + v * L, c[i][v]);
                        else if (const int64_t left = width - n - v * L; left > 0)
                            finish(row + r + i, column + n + v * L, left < L ? int(left) : L, c[i][v]);
                    }
            });
        }

        WF_INLINE void finish(int64_t r, int64_t n, int count, F value) const {
            const int64_t at = r * job.out_stride + n;
            if (job.out) return Lanes<S>::round(job.out + at, value, count);
            if (job.more) value = value + Lanes<S>::floats(job.wide + at, count);
            Lanes<S>::store(job.wide + at, value, count);
        }
    };
};

}  // namespace wf
