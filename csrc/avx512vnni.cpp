// Int8 products in AVX512 with VNNI and VBMI, for Zen since 4 and Intel's servers since Ice Lake. Codes of weights are unsigned,
// 128 higher than they are: a sum begins at -128 times that of x.
#include "avx512.h"
#include "int8_gemm.h"

namespace wf {
namespace {

struct Int8Tables {
    alignas(64) uint8_t e2m1[64];  // [shift][code]
    Int8Tables() {
        for (int i = 0; i < 64; i++) e2m1[i] = uint8_t(128 + INT8_OF_E2M1[i % 16] * (1 << i / 16));
    }
};

const Int8Tables &int8_tables() {
    static const Int8Tables made;
    return made;
}

struct Avx512Vnni : Int8Vector<Avx512> {
    static constexpr int INT8_TILE_ROWS = 6, INT8_TILE_VECTORS = 4, OFFSET = 128;
    static constexpr bool SHIFTS = true;

    static WF_INLINE U dot4(U sum, B w, B x) {
        return (U)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
    }
    static WF_INLINE F floats(U sum) { return (F)_mm512_cvtepi32_ps((__m512i)sum); }
    static WF_INLINE void e2m1(U codes, U shift, B &low, B &high) {
        const __m512i table = _mm512_load_si512(int8_tables().e2m1), nibbles = _mm512_set1_epi8(15);
        const __m512i above = (__m512i)(shift * 0x10101010), both = (__m512i)codes;
        // codes & 15 | above
        const __m512i first = _mm512_ternarylogic_epi32(both, nibbles, above, 0xEA);
        const __m512i last = _mm512_ternarylogic_epi32(_mm512_srli_epi32(both, 4), nibbles, above, 0xEA);
        low = (B)_mm512_permutexvar_epi8(first, table), high = (B)_mm512_permutexvar_epi8(last, table);
    }
    static WF_INLINE uint8_t highest(const uint8_t *codes) {
        const __m512i a = _mm512_loadu_si512(codes), b = _mm512_loadu_si512(codes + 64);
        const __m512i magnitude = _mm512_set1_epi8(127);
        const __m512i top = _mm512_max_epu8(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
        const __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
        const __m128i quarter = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        const __m128i least = _mm_xor_si128(quarter, _mm_set1_epi8(-1));  // of bytes, then of words with a high byte of 0
        const __m128i pairs = _mm_min_epu8(least, _mm_srli_epi16(least, 8));
        return uint8_t(~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_and_si128(pairs, _mm_set1_epi16(255)))));
    }
    static WF_INLINE void e4m3(const uint8_t *codes, const uint8_t *magnitudes, uint8_t *out) {
        const __m512i low = _mm512_load_si512(magnitudes), high = _mm512_load_si512(magnitudes + 64);
        const __m512i zero = _mm512_set1_epi8(-128);
        for (int i = 0; i < CHUNK; i += 64) {
            const __m512i code = _mm512_loadu_si512(codes + i), magnitude = _mm512_permutex2var_epi8(low, code, high);
            const __m512i plus = _mm512_add_epi8(zero, magnitude);
            _mm512_store_si512(out + i, _mm512_mask_sub_epi8(plus, _mm512_movepi8_mask(code), zero, magnitude));
        }
    }
};

}  // namespace

const Int8Kernels avx512vnni_int8 = int8_kernels<Avx512Vnni>(has_avx512vnni, &avx2_int8);

}  // namespace wf
