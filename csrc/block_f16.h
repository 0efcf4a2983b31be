// Few rows of x with rows of float16: widened, then multiplied in float32. x lies as plain C++ arranges it, row after row.
#pragma once

#include "block_vector.h"

namespace wf {

template <class S>
struct HalfRows {
    using F = typename S::F;
    static constexpr int L = S::LANES;

    static void rows(const Matrix &m, const Feed &feed, const float *x, int x_rows, int64_t first, int64_t end,
                     float *y, int64_t stride) {
        for (int64_t n = first; n < end; n++) {
            const uint8_t *row = m.codes + n * m.row_bytes();
            F sums[MAX_ROWS] = {};
            int64_t k = 0;
            for (; k + L <= m.columns; k += L) {
                if (k % 32 == 0) ask(feed, uintptr_t(row + 2 * k) + uintptr_t(feed.ahead));
                const F w = S::half_values(row + 2 * k);
                for (int r = 0; r < x_rows; r++) sums[r] = S::fma(w, S::load(x + r * m.columns + k), sums[r]);
            }
            for (int r = 0; r < x_rows; r++) {
                float sum = S::sum(sums[r]);
                for (int64_t i = k; i < m.columns; i++) sum += read_half(row + 2 * i) * x[r * m.columns + i];
                y[r * stride + n] = sum;
            }
        }
    }
};

}  // namespace wf
