// Int8 products in NEON with FEAT_I8MM: Neoverse since V1 and N2, Apple since M2. An instruction multiplies eight codes of two rows
// of the weight by eight of two rows of x, so both are laid out by eights of columns, two rows side by side.
#include "neon.h"

#include "int8_gemm.h"

namespace wf {
namespace {

WF_INLINE int8x16_t firsts(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

WF_INLINE int8x16_t lasts(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

struct NeonI8mm : NeonInt8 {
    static constexpr int INT8_TILE_ROWS = 8, INT8_TILE_VECTORS = 2;
    static constexpr bool GROUPS = true;

    // Rows of x by twos; the last one of an odd number beside itself.
    template <int N>
    struct Int8X {
        static constexpr int TWOS = (N + 1) / 2;
        int8x16_t eights[CHUNK / 8][TWOS];

        WF_INLINE explicit Int8X(const Int8Record *x) {
            for (int i = 0; i < TWOS; i++) {
                const int8_t *first = x[2 * i].codes, *last = x[2 * i + 1 < N ? 2 * i + 1 : 2 * i].codes;
                for (int k = 0; k < CHUNK / 8; k += 2) {
                    const int8x16_t a = vld1q_s8(first + 8 * k), b = vld1q_s8(last + 8 * k);
                    eights[k][i] = firsts(a, b), eights[k + 1][i] = lasts(a, b);
                }
            }
        }
    };

    // The words k and k + 1 of row n, of n + 1, and so on.
    static WF_INLINE void put(uint32_t *line, int64_t n, const B (&two)[2]) {
        U zipped[2] = {(U)vzip1q_u32((uint32x4_t)two[0], (uint32x4_t)two[1]),
                       (U)vzip2q_u32((uint32x4_t)two[0], (uint32x4_t)two[1])};
        write(line + 2 * n, zipped[0]), write(line + 2 * n + L, zipped[1]);
    }

    // The dot products of group g of N rows of x and of V vectors of rows of the weight, from row n on.
    template <int N, int V, bool SPLIT>
    static WF_INLINE void group(const Int8X<N> &x, int g, const uint32_t *words, int64_t n, U (&dots)[N][V]) {
        constexpr int TWOS = Int8X<N>::TWOS;
        int32x4_t sums[TWOS][2 * V];  // of two rows of x and two of the weight: [0, 0], [0, 1], [1, 0], [1, 1]
#pragma GCC unroll 4
        for (int i = 0; i < TWOS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < 2 * V; j++) sums[i][j] = vdupq_n_s32(0);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int k = SPLIT ? 2 * g + i % 2 + i / 2 * (CHUNK / 16) : 4 * g + i;  // of eight columns
            const uint32_t *at = words + 2 * k * INT8_TILE + 2 * n;
#pragma GCC unroll 4
            for (int j = 0; j < 2 * V; j++) {
                const int8x16_t w = (int8x16_t)pairs(at + j * L);
#pragma GCC unroll 4
                for (int two = 0; two < TWOS; two++) sums[two][j] = vmmlaq_s32(sums[two][j], x.eights[k][two], w);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < N; r++)
#pragma GCC unroll 4
            for (int j = 0; j < V; j++) {
                const int8x16_t a = vreinterpretq_s8_s32(sums[r / 2][2 * j]);
                const int8x16_t b = vreinterpretq_s8_s32(sums[r / 2][2 * j + 1]);
                dots[r][j] = (U)(r % 2 ? lasts(a, b) : firsts(a, b));
            }
    }
};

}  // namespace

const Int8Kernels neon_i8mm_int8 = int8_kernels<NeonI8mm>(has_neon_i8mm, &neon_dot_int8);

}  // namespace wf
