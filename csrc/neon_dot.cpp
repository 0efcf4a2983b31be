// Int8 products in NEON with FEAT_DotProd: Cortex since A76 and A55, Neoverse since N1, Apple since A13 and M1. An instruction
// multiplies four codes of each lane's row by four of one row of x, which it takes from any lane of a vector.
#include "neon.h"

#include "int8_gemm.h"

namespace wf {
namespace {

struct NeonDot : NeonInt8 {
    static constexpr int INT8_TILE_ROWS = 8, INT8_TILE_VECTORS = 2;
    static constexpr bool GROUPS = true;

    // The dot products of group g of N rows of x and of V vectors of rows of the weight, from row n on.
    template <int N, int V, bool SPLIT>
    static WF_INLINE void group(const Int8Record *x, int g, const uint32_t *words, int64_t n, U (&dots)[N][V]) {
        for (int r = 0; r < N; r++)
            for (int j = 0; j < V; j++) dots[r][j] = U{};
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int k = SPLIT ? 4 * g + half * CHUNK / 8 : 8 * g + 4 * half;
            int8x16_t codes[N];
#pragma GCC unroll 8
            for (int r = 0; r < N; r++) codes[r] = vld1q_s8(x[r].codes + 4 * k);
            const uint32_t *at = words + k * INT8_TILE + n;
            word<0>(codes, at, dots);
            word<1>(codes, at + INT8_TILE, dots);
            word<2>(codes, at + 2 * INT8_TILE, dots);
            word<3>(codes, at + 3 * INT8_TILE, dots);
        }
    }

  private:
    template <int I, int N, int V>
    static WF_INLINE void word(const int8x16_t (&codes)[N], const uint32_t *words, U (&dots)[N][V]) {
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) {
            const int8x16_t w = (int8x16_t)pairs(words + j * L);
#pragma GCC unroll 8
            for (int r = 0; r < N; r++) dots[r][j] = (U)vdotq_laneq_s32((int32x4_t)dots[r][j], w, codes[r], I);
        }
    }
};

}  // namespace

const Int8Kernels neon_dot_int8 = int8_kernels<NeonDot>(has_neon_dot, &neon_int8);

}  // namespace wf
