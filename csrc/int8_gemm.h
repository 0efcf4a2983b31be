// y = x W^T with x in int8, for one row of x as for many: 128 columns of 64 rows of the weight become int8, laid out by fours of
// columns, then meet every row of x while they are in the nearest cache. int8.h states the order of the sums.
#pragma once

#include "int8_pack.h"

namespace wf {

template <class S>
struct Int8Gemm {
    using F = typename S::F;
    using U = typename S::U;
    using B = typename S::B;
    static constexpr int L = S::LANES, R = S::INT8_TILE_ROWS, V = S::INT8_TILE_VECTORS;
    static constexpr int64_t T = INT8_TILE;
    static_assert(T % (V * L) == 0 && INT8_ROWS % R == 0, "tiles are whole");

    struct Scratch {
        alignas(64) float sums[INT8_ROWS * T];
        Int8Panel panel;
    };
    static int64_t bytes() { return int64_t(sizeof(Scratch)); }

    static void multiply(const Int8Task &task, uint8_t *memory) {
        Scratch &scratch = *reinterpret_cast<Scratch *>(memory);
        std::memset(scratch.sums, 0, size_t(4 * T * task.x_rows));
        for (int64_t chunk = 0; chunk < task.weight->chunks(); chunk++) {
            Int8Pack<S>::pack(task, chunk, scratch.panel);
            const Int8Record *x = static_cast<const Int8Record *>(task.x) + chunk * task.stride;
            const bool split = task.weight->form == WF_FP4, apart = scratch.panel.apart;
            if (split) apart ? rows<true, true>(task.x_rows, x, scratch) : rows<true, false>(task.x_rows, x, scratch);
            else apart ? rows<false, true>(task.x_rows, x, scratch) : rows<false, false>(task.x_rows, x, scratch);
        }
        for (int64_t r = 0; r < task.x_rows; r++) store_sums(task, r, scratch.sums + r * T);
    }

  private:
    template <bool SPLIT, bool RATIOS>
    static void rows(int64_t x_rows, const Int8Record *x, Scratch &scratch) {
        by_tiles<R>(x_rows, [&](auto rows, int64_t r) {
            tile<decltype(rows)::value, SPLIT, RATIOS>(x + r, scratch.panel, scratch.sums + r * T);
        });
    }

    template <int N, bool SPLIT, bool RATIOS>
    static WF_INLINE void tile(const Int8Record *x, const Int8Panel &panel, float *sums) {
        alignas(64) float parts[N][V * L];
        const typename S::template Int8X<N> mine(x);
        for (int64_t n = 0; n < T; n += V * L) {
            for (int g = 0; g < INT8_GROUPS; g++) {
                U dots[N][V];
                if constexpr (S::GROUPS) S::template group<N, V, SPLIT>(mine, g, panel.words, n, dots);
                else group<N, SPLIT>(mine, g, panel.words + n, dots);
#pragma GCC unroll 8
                for (int r = 0; r < N; r++) {
                    const F scale = S::all(x[r].scales[g]);
#pragma GCC unroll 8
                    for (int j = 0; j < V; j++) {
                        F dot = S::floats(dots[r][j]);
                        if (RATIOS) dot = dot * S::load(panel.ratios + g * T + n + j * L);
                        float *part = parts[r] + j * L;
                        S::store(part, g ? S::fma(scale, dot, S::load(part)) : scale * dot);
                    }
                }
            }
            for (int r = 0; r < N; r++)
                for (int j = 0; j < V; j++) {
                    float *sum = sums + r * T + n + j * L;
                    const F scale = S::load(panel.scales + n + j * L);
                    S::store(sum, S::fma(S::load(parts[r] + j * L), scale, S::load(sum)));
                }
        }
    }

    // The dot products of group g: N rows of x, V vectors of rows of the weight.
    template <int N, bool SPLIT>
    static WF_INLINE void group(const Int8Record *x, int g, const uint32_t *words, U (&dots)[N][V]) {
#pragma GCC unroll 8
        for (int r = 0; r < N; r++) {
            const U start = S::OFFSET ? S::all_pairs(uint32_t(x[r].starts[g])) : U{};
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) dots[r][j] = start;
        }
        // a group's codes: eight words on end, or four of each half
        const int first = (SPLIT ? 4 : 8) * g;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const int k = first + (SPLIT ? i % 4 + i / 4 * (CHUNK / 8) : i);
            B w[V];
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) w[j] = (B)S::pairs(words + k * T + j * L);
#pragma GCC unroll 8
            for (int r = 0; r < N; r++) {
                const B four = (B)S::all_pairs(S::template read<uint32_t>(x[r].codes + 4 * k));
#pragma GCC unroll 8
                for (int j = 0; j < V; j++) dots[r][j] = S::dot4(dots[r][j], w[j], four);
            }
        }
    }
};

template <class S>
constexpr Int8Kernels int8_kernels(bool (*supported)(), const Int8Kernels *otherwise) {
    return {supported, otherwise, Int8Gemm<S>::bytes, Int8Gemm<S>::multiply};
}

}  // namespace wf
