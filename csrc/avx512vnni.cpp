// Int8 products in AVX512 with VNNI and VBMI, for Zen since 4 and Intel's servers since Ice Lake. Codes of weights are unsigned,
// 128 higher than they are: a sum begins at -128 times that of x.
#include "avx512.h"
#include "int8_gemm.h"

namespace wf {
namespace {

struct Avx512Vnni : Int8Vector<Avx512> {
    static constexpr int INT8_TILE_ROWS = 6, INT8_TILE_VECTORS = 4, OFFSET = 128;

    static WF_INLINE U dot4(U sum, B w, B x) {
        return (U)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
    }
    static WF_INLINE F floats(U sum) { return (F)_mm512_cvtepi32_ps((__m512i)sum); }
    static WF_INLINE B tables(const uint8_t *const (&of)[4]) {
        __m512i all = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)of[0]));
        all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)of[1]), 1);
        all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)of[2]), 2);
        return (B)_mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)of[3]), 3);
    }
    static WF_INLINE B look_up(B table, B index) { return (B)_mm512_shuffle_epi8((__m512i)table, (__m512i)index); }
    // e == 0 and e == 255 have the highest mantissa bit: (e + 1) & 254 is 0 for them alone.
    static WF_INLINE F scales(const uint8_t *bytes, int first) {
        const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes));
        const __m512i next = _mm512_add_epi32(wide, _mm512_set1_epi32(1)), bits = _mm512_slli_epi32(wide, 23);
        const __mmask16 edge = _mm512_testn_epi32_mask(next, _mm512_set1_epi32(254));
        const __m512i all = _mm512_mask_or_epi32(bits, edge, bits, _mm512_set1_epi32(1 << 22));
        const __m512i fours = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        return (F)_mm512_permutexvar_epi32(_mm512_add_epi32(fours, _mm512_set1_epi32(first)), all);
    }
    static WF_INLINE uint8_t highest(const uint8_t *codes) {
        const __m512i a = _mm512_loadu_si512(codes), b = _mm512_loadu_si512(codes + 64);
        const __m512i magnitude = _mm512_set1_epi8(127);
        const __m512i top = _mm512_max_epu8(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
        const __m256i half = _mm256_max_epu8(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
        const __m128i quarter = _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        const __m128i least = _mm_xor_si128(quarter, _mm_set1_epi8(-1));  // of bytes, then of words whose high byte is 0
        const __m128i pairs = _mm_min_epu8(least, _mm_srli_epi16(least, 8));
        return uint8_t(~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_and_si128(pairs, _mm_set1_epi16(255)))));
    }
    static WF_INLINE void e4m3_codes(const uint8_t *codes, const uint8_t *magnitudes, int, uint8_t *out) {
        const __m512i low = _mm512_loadu_si512(magnitudes), high = _mm512_loadu_si512(magnitudes + 64);
        for (int i = 0; i < CHUNK; i += 64) {
            const __m512i code = _mm512_loadu_si512(codes + i), zero = _mm512_set1_epi8(-128);
            const __m512i magnitude = _mm512_permutex2var_epi8(low, code, high);
            const __mmask64 minus = _mm512_movepi8_mask(code);
            _mm512_storeu_si512(out + i, _mm512_mask_sub_epi8(_mm512_add_epi8(zero, magnitude), minus, zero, magnitude));
        }
    }
};

}  // namespace

const Int8Kernels avx512vnni_int8 = int8_kernels<Avx512Vnni>(has_avx512vnni, &avx2_int8);

}  // namespace wf
