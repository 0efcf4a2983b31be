// GGUF's blocks in AVX512 with VNNI and VBMI: a strip is one vector, and scales are looked up for all of it at once.
#include "avx512vnni.h"
#include "block_rows.h"

namespace wf {
namespace {

// Values of codes of BITS bits, 128 too high, whatever an index of six bits has above them.
template <int BITS>
struct Values {
    uint8_t of[64];
    constexpr explicit Values(int sign) : of() {
        for (int i = 0; i < 64; i++) {
            const int code = i % (1 << BITS), value = BITS == 2 ? IQ2_VALUES[code] : IQ3_VALUES[code % 8];
            of[i] = uint8_t(128 + sign * value);
        }
    }
};

struct Avx512Blocks : BlockVector<Avx512Vnni> {
    static constexpr bool SHUFFLES_ALL = true;

    static WF_INLINE float half(const uint8_t *from) { return _cvtsh_ss(read_16(from)); }
    static WF_INLINE F half_values(const uint8_t *from) {
        return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
    }
    static WF_INLINE B twice(const uint8_t *from, int) {
        return (B)_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)from));
    }
    static WF_INLINE B twice_shifted(const uint8_t *from, int) {
        const __m512i counts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
        return (B)_mm512_srlv_epi16((__m512i)twice(from, 0), counts);
    }
    template <int N>
    static WF_INLINE B pieces(const uint8_t *from, int stride, int) {
        if constexpr (N == 32) {
            const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)from));
            return (B)_mm512_inserti64x4(first, _mm256_loadu_si256((const __m256i *)(from + stride)), 1);
        } else {
            __m512i all = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)from));
            all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(from + stride)), 1);
            all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(from + 2 * stride)), 2);
            return (B)_mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(from + 3 * stride)), 3);
        }
    }
    static WF_INLINE B shifted(B value, int bits) { return (B)_mm512_srli_epi16((__m512i)value, unsigned(bits)); }
    static WF_INLINE B shifted_up(B value, int bits) { return (B)_mm512_slli_epi16((__m512i)value, unsigned(bits)); }
    static WF_INLINE B where(B of, B bits, int value) {
        return (B)_mm512_maskz_set1_epi8(_mm512_test_epi8_mask((__m512i)of, (__m512i)bits), char(value));
    }
    static WF_INLINE B look_up_16(const uint8_t (&table)[16], B index) {
        const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
        return (B)_mm512_shuffle_epi8(all, (__m512i)index);
    }

    struct Words {
        __m512i of;  // the first 16
    };
    static WF_INLINE __m128i packed(Sixteen bytes) { return _mm_set_epi64x(int64_t(bytes.last), int64_t(bytes.first)); }
    static WF_INLINE Words words(Sixteen bytes) {
        return {_mm512_castsi256_si512(_mm256_cvtepi8_epi16(packed(bytes)))};
    }
    static WF_INLINE H pick(const Words &words, const uint16_t *index) {
        return (H)_mm512_permutexvar_epi16(_mm512_load_si512(index), words.of);
    }
    struct Floats {
        __m512 of;
    };
    static WF_INLINE Floats floats_of(Sixteen bytes, float factor) {
        return {_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(packed(bytes))), _mm512_set1_ps(factor))};
    }
    template <int STRIDE>
    static WF_INLINE Floats halves_of(const uint8_t *b) {
        const __m128i all = _mm_set_epi16(int16_t(read_16(b + 7 * STRIDE)), int16_t(read_16(b + 6 * STRIDE)),
                                          int16_t(read_16(b + 5 * STRIDE)), int16_t(read_16(b + 4 * STRIDE)),
                                          int16_t(read_16(b + 3 * STRIDE)), int16_t(read_16(b + 2 * STRIDE)),
                                          int16_t(read_16(b + STRIDE)), int16_t(read_16(b)));
        return {_mm512_castps256_ps512(_mm256_cvtph_ps(all))};
    }
    static WF_INLINE Floats powers_of(uint64_t bytes) {
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes)));
        const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(codes, _mm512_set1_epi32(1)), 23);
        const __mmask16 small = _mm512_cmplt_epu32_mask(codes, _mm512_set1_epi32(2));
        const __m512i all = _mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x00200000), codes);
        return {_mm512_castsi512_ps(all)};
    }
    static WF_INLINE Sixteen zipped(uint64_t even, uint64_t odd) {
        const __m128i both = _mm_unpacklo_epi8(_mm_cvtsi64_si128(int64_t(even)), _mm_cvtsi64_si128(int64_t(odd)));
        return {uint64_t(_mm_cvtsi128_si64(both)), uint64_t(_mm_extract_epi64(both, 1))};
    }
    static WF_INLINE F pick(const Floats &floats, const uint32_t *index) {
        return (F)_mm512_permutexvar_ps(_mm512_load_si512(index), floats.of);
    }
    static WF_INLINE F part(const Floats &floats, int) { return (F)floats.of; }

    static WF_INLINE U dot_scaled(U sum, B w, const int8_t *x, H scales) {
        const __m512i pairs = _mm512_maddubs_epi16((__m512i)w, _mm512_load_si512(x));
        return (U)_mm512_dpwssd_epi32((__m512i)sum, pairs, (__m512i)scales);
    }
    template <bool FULL>
    static WF_INLINE U dot_block(U sum, B w, const int8_t *x) {
        return (U)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_load_si512(x));
    }

    // The words of a table of 64 N at 32 indices: of each pair of vectors one, then of these by the bits above.
    template <int N>
    static WF_INLINE __m512i words_at(const uint16_t *table, __m512i index) {
        __m512i found[N];
#pragma GCC unroll 8
        for (int i = 0; i < N; i++)
            found[i] = _mm512_permutex2var_epi16(_mm512_load_si512(table + 64 * i), index,
                                                 _mm512_load_si512(table + 64 * i + 32));
#pragma GCC unroll 3
        for (int step = 1; step < N; step *= 2) {
            const __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(short(64 * step)));
#pragma GCC unroll 4
            for (int i = 0; i < N; i += 2 * step) found[i] = _mm512_mask_mov_epi16(found[i], upper, found[i + step]);
        }
        return found[0];
    }
    static WF_INLINE __m512i signs_at(__m512i seven) {
        return _mm512_permutex2var_epi8(_mm512_load_si512(SIGNS.of), seven, _mm512_load_si512(SIGNS.of + 64));
    }
    // Codes of BITS bits, at bit BITS v of each byte, as values; negative where the signs have a bit of `bits` << v.
    template <int BITS, int COUNT>
    static WF_INLINE void signed_values(__m512i words, __m512i signs, uint32_t bits, B *w) {
        alignas(64) static constexpr Values<BITS> above(1), below(-1);
        const __m512i plus = _mm512_load_si512(above.of), minus = _mm512_load_si512(below.of);
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; v++) {
            const __m512i index = _mm512_srli_epi16(words, unsigned(BITS * v));
            const __mmask64 negative = _mm512_test_epi8_mask(signs, _mm512_set1_epi32(int32_t(bits << v)));
            w[v] = (B)_mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(index, plus), negative, index, minus);
        }
    }
    static WF_INLINE void iq2_xxs(const uint8_t *b, B (&w)[4]) {
        const __m512i groups = _mm512_loadu_si512(b + 2);
        // of each quadword the first four bytes, as words, and four fields of 7 bits, twice
        const __m512i places = _mm512_set_epi16(59, 58, 57, 56, 51, 50, 49, 48, 43, 42, 41, 40, 35, 34, 33, 32, 27, 26,
                                                25, 24, 19, 18, 17, 16, 11, 10, 9, 8, 3, 2, 1, 0);
        const __m512i index = _mm512_maskz_permutexvar_epi8(0x5555555555555555, places, groups);
        const __m512i fields = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x35352E2E27272020), groups);
        signed_values<2, 4>(words_at<4>(IQ2_XXS_GRID, index), signs_at(fields), 0x10011001, w);
    }
    static WF_INLINE void iq2_xs(const uint8_t *b, B (&w)[4]) {
        const __m512i both = _mm512_loadu_si512(b + 2), seven = _mm512_srli_epi16(both, 9);
        const __m512i twice = _mm512_or_si512(seven, _mm512_slli_epi16(seven, 8));
        signed_values<2, 4>(words_at<8>(IQ2_XS_GRID, both), signs_at(twice), 0x10011001, w);
    }
    static WF_INLINE void iq3_xxs(const uint8_t *b, B (&w)[4]) {
        const __m512i groups = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        const __m512i fields = _mm512_broadcast_i32x4(
            _mm_set_epi64x(0x151515150E0E0E0E, 0x0707070700000000));  // of 7 bits, each for two indices
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m512i index = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(b + 2 + 32 * half)));
            const __m128i four = _mm_loadu_si128((const __m128i *)(b + 66 + 16 * half));
            const __m512i quads = _mm512_permutexvar_epi32(groups, _mm512_castsi128_si512(four));
            signed_values<4, 2>(words_at<4>(IQ3_XXS_GRID, index), signs_at(_mm512_multishift_epi64_epi8(fields, quads)),
                                0x40100401, w + 2 * half);
        }
    }
};

}  // namespace

const BlockKernels avx512vnni_blocks = block_kernels<Avx512Blocks>(has_avx512vnni, &avx2_blocks);

}  // namespace wf
