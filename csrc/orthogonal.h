// The hybrid Newton-Schulz iteration of one matrix (train/newton_schulz.py), in bfloat16 with sums in float32:
//
//   X0 = A / |A|_F;   G = X Xᵀ;   P = b G + c G G;   X <- a X + P X
//
// of A, the values themselves, or Muon's look-ahead mu M + gradient (train/muon.py).//
// X has at most as many rows as columns (a tall matrix lies turned). G and P are symmetric: what lies above their diagonal
// blocks is copied. Sizes are filled up with zeros, which stay zeros.
#pragma once

#include <cmath>

#include "multiply.h"

namespace wf {

constexpr float ORTHOGONAL_TINY = 1e-30f;  // a matrix without a larger magnitude counts as zero
constexpr int64_t ORTHOGONAL_UNIT = 32;

struct Orthogonal {
    float *values;  // [rows, columns], and so are the others
    float *momentum;
    const float *grad;
    int64_t rows, columns;
    float keep, rate, mu;
    const float *coefficients;  // a, b, c of each step
    int64_t steps;

    WF_INLINE bool tall() const { return rows > columns; }
    WF_INLINE int64_t short_side() const { return whole(tall() ? columns : rows); }
    WF_INLINE int64_t long_side() const { return whole(tall() ? rows : columns); }

    static WF_INLINE int64_t whole(int64_t n) { return (n + ORTHOGONAL_UNIT - 1) / ORTHOGONAL_UNIT * ORTHOGONAL_UNIT; }
};

template <class S>
struct OrthogonalKernel {
    using F = typename S::F;
    using U = typename S::U;
    static constexpr int L = S::LANES, R = S::TILE_ROWS, T = S::TILE_VECTORS;
    static constexpr int64_t PANEL = MULTIPLY_PANEL, UNIT = ORTHOGONAL_UNIT;

    static int64_t bytes(const Orthogonal &job) {
        const int64_t m = job.short_side(), n = job.long_side();
        return 2 * m * n + 4 * m * m + 2 * n * PANEL + 4 * L * L + (job.momentum ? 4 * job.rows * job.columns : 0);
    }

    static void run(const Orthogonal &job, uint8_t *scratch) {
        OrthogonalKernel kernel(job, scratch);
        if (kernel.begin())
            for (int64_t step = 0; step < job.steps; step++) kernel.step(job.coefficients + 3 * step);
        kernel.end();
    }

  private:
    const Orthogonal &job;
    const int64_t m, n;
    uint16_t *x, *gram, *poly;  // [m, n], [m, m], [m, m]
    uint32_t *panel, *turned;
    const float *matrix;  // A

    OrthogonalKernel(const Orthogonal &given, uint8_t *scratch)
        : job(given), m(given.short_side()), n(given.long_side()) {
        x = reinterpret_cast<uint16_t *>(scratch), gram = x + m * n, poly = gram + m * m;
        panel = reinterpret_cast<uint32_t *>(poly + m * m), turned = panel + n / 2 * PANEL;
        matrix = job.momentum ? ahead(reinterpret_cast<float *>(turned + L * L)) : job.values;
    }

    // momentum <- mu momentum + grad; mu momentum + grad
    const float *ahead(float *to) const {
        const F mu = S::all(job.mu);
        Lanes<S>::each(job.rows * job.columns, [&](int64_t k, int left) __attribute__((always_inline)) {
            const F grad = Lanes<S>::floats(job.grad + k, left);
            const F moved = Lanes<S>::floats(job.momentum + k, left) * mu + grad;
            Lanes<S>::store(job.momentum + k, moved, left);
            Lanes<S>::store(to + k, grad + moved * mu, left);
        });
        return to;
    }

    // X0. False for a matrix of zeros.
    bool begin() {
        const int64_t count = job.rows * job.columns;
        U tops = U{};  // magnitudes order like integers, NaN on top
        Lanes<S>::each(count, [&](int64_t k, int left) __attribute__((always_inline)) {
            const U magnitude = (U)Lanes<S>::floats(matrix + k, left) & 0x7FFFFFFF;
            tops = magnitude > tops ? magnitude : tops;
        });
        uint32_t bits = 0;
        for (int l = 0; l < L; l++) bits = tops[l] > bits ? tops[l] : bits;
        const float top = bits_to_float(bits);
        const float divisor = top < ORTHOGONAL_TINY ? ORTHOGONAL_TINY : top;
        double squares = 0;  // by rows, so that vectors of them add up
        for (int64_t row = 0; row < job.rows; row++) {
            F sum = F{};
            Lanes<S>::each(job.columns, [&](int64_t k, int left) __attribute__((always_inline)) {
                const F value = Lanes<S>::floats(matrix + row * job.columns + k, left) / divisor;
                sum = sum + value * value;
            });
            squares += S::sum(sum);
        }
        const float norm = std::sqrt(float(squares));
        std::memset(x, 0, size_t(2 * m * n));
        if (norm < ORTHOGONAL_TINY) return false;
        for (int64_t row = 0; row < job.rows; row++) {
            const float *from = matrix + row * job.columns;
            if (job.tall())
                for (int64_t k = 0; k < job.columns; k++) x[k * n + row] = float_to_bf16(from[k] / divisor / norm);
            else
                Lanes<S>::each(job.columns, [&](int64_t k, int left) __attribute__((always_inline)) {
                    Lanes<S>::round(x + row * n + k, Lanes<S>::floats(from + k, left) / divisor / norm, left);
                });
        }
        return true;
    }

    void end() const {
        const F keep = S::all(job.keep), rate = S::all(job.rate);
        for (int64_t row = 0; row < job.rows; row++) {
            float *to = job.values + row * job.columns;
            Lanes<S>::each(job.columns, [&](int64_t k, int left) __attribute__((always_inline)) {
                const F o = job.tall() ? column(row, k, left) : Lanes<S>::words(x + row * n + k, left);
                Lanes<S>::store(to + k, job.momentum ? Lanes<S>::floats(to + k, left) * keep - rate * o : o, left);
            });
        }
    }
    WF_INLINE F column(int64_t row, int64_t k, int left) const {
        float values[L] = {};
        for (int l = 0; l < left; l++) values[l] = bf16_to_float(x[(k + l) * n + row]);
        return S::load(values);
    }

    void step(const float *abc) {
        const F a = S::all(abc[0]), b = S::all(abc[1]), c = S::all(abc[2]);
        for (int64_t at = 0; at < m; at += PANEL) {
            Pairs<S>::turn(x + at * n, n, n, wide(m, at), panel, PANEL);
            symmetric(x, n, at, gram, [](F sum, const uint16_t *) __attribute__((always_inline)) { return sum; });
        }
        for (int64_t at = 0; at < m; at += PANEL) {
            Pairs<S>::zip(gram + at, m, m, wide(m, at), panel, PANEL);
            symmetric(gram, m, at, poly, [&](F sum, const uint16_t *old) __attribute__((always_inline)) {
                return b * S::widen(old) + c * sum;
            });
        }
        for (int64_t at = 0; at < n; at += PANEL) {
            Pairs<S>::zip(x + at, n, m, wide(n, at), panel, PANEL);
            rows(
                poly, m, 0, m, at, wide(n, at), x, n,
                [&](F sum, const uint16_t *old) __attribute__((always_inline)) { return a * S::widen(old) + sum; }, x);
        }
    }

    static WF_INLINE int64_t wide(int64_t all, int64_t at) { return all - at < PANEL ? all - at : PANEL; }

    // Columns at .. at + PANEL of a symmetric product of rows `depth` wide, from the diagonal on, and their mirror image.
    template <class Of>
    WF_INLINE void symmetric(const uint16_t *left, int64_t depth, int64_t at, uint16_t *out, const Of &of) {
        const int64_t width = wide(m, at), half = width < UNIT ? width : UNIT;
        rows(left, depth, at, at + half, at, half, out, m, of, gram);
        if (at + half < m) rows(left, depth, at + half, m, at, width, out, m, of, gram);
        for (int64_t row = at + half; row < at + width; row += L) mirror(out, row, at, half);
        for (int64_t row = at + width; row < m; row += L) mirror(out, row, at, width);
    }

    // out[column][row + l] = out[row + l][column] for the columns at .. at + width.
    WF_INLINE void mirror(uint16_t *out, int64_t row, int64_t at, int64_t width) {
        for (int64_t column = at; column < at + width; column += 2 * L) {
            S::transpose(reinterpret_cast<const uint32_t *>(out + row * m + column), m / 2, turned, L);
            for (int64_t word = 0; word < L; word++) {
                const typename S::U both = S::pairs(turned + word * L);
                uint16_t *to = out + (column + 2 * word) * m + row;
                S::narrow(to, S::bits(both << 16));
                S::narrow(to + m, S::bits(both & 0xFFFF0000));
            }
        }
    }

    // out[row][at ..] = of(left[row] . panel, old[row][at ..]) for rows first .. end.
    template <class Of>
    WF_INLINE void rows(const uint16_t *left, int64_t depth, int64_t first, int64_t end, int64_t at, int64_t width,
                        uint16_t *out, int64_t stride, const Of &of, const uint16_t *old) {
        int64_t k = 0;
        for (; k + T * L <= width; k += T * L) vectors<T>(left, depth, first, end, at, k, out, stride, of, old);
        if constexpr (T > 2)
            for (; k + 2 * L <= width; k += 2 * L) vectors<2>(left, depth, first, end, at, k, out, stride, of, old);
        for (; k < width; k += L) vectors<1>(left, depth, first, end, at, k, out, stride, of, old);
    }
    template <int M, class Of>
    WF_INLINE void vectors(const uint16_t *left, int64_t depth, int64_t first, int64_t end, int64_t at, int64_t k,
                           uint16_t *out, int64_t stride, const Of &of, const uint16_t *old) {
        by_tiles<R>(end - first, [&](auto tile, int64_t r) __attribute__((always_inline)) {
            constexpr int N = decltype(tile)::value;
            const int64_t row = first + r;
            F sums[N][M] = {};
            multiply_tile<S, N, M>(reinterpret_cast<const uint32_t *>(left + row * depth), depth / 2, 1, panel + k,
                                   PANEL, depth / 2, sums);
#pragma GCC unroll 8
            for (int i = 0; i < N; i++)
#pragma GCC unroll 8
                for (int v = 0; v < M; v++) {
                    const int64_t place = (row + i) * stride + at + k + v * L;
                    S::narrow(out + place, of(sums[i][v], old + place));
                }
        });
    }
};

}  // namespace wf
