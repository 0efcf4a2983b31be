// GGUF's blocks in AVX2: a strip is two vectors, and codebooks are read value by value.
#pragma once

#include "avx2.h"
#include "block_vector.h"

namespace wf {
namespace {

struct Avx2Blocks : BlockVector<Avx2Int8> {
    static WF_INLINE float half(const uint8_t *from) { return _cvtsh_ss(read_16(from)); }
    static WF_INLINE F half_values(const uint8_t *from) {
        return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    }
    static WF_INLINE B shifted(B value, int bits) { return (B)_mm256_srli_epi16((__m256i)value, bits); }
    static WF_INLINE B shifted_up(B value, int bits) { return (B)_mm256_slli_epi16((__m256i)value, bits); }
    static WF_INLINE B twice(const uint8_t *from, int) { return bytes(from); }
    static WF_INLINE B twice_shifted(const uint8_t *from, int at) { return at ? shifted(bytes(from), 2) : bytes(from); }
    template <int N>
    static WF_INLINE B pieces(const uint8_t *from, int stride, int at) {
        from += at / N * stride;
        if (N == 32) return bytes(from);
        const __m128i low = _mm_loadu_si128((const __m128i *)from);
        return (B)_mm256_set_m128i(_mm_loadu_si128((const __m128i *)(from + stride)), low);
    }
    static WF_INLINE B look_up_16(const uint8_t (&table)[16], B index) { return look_up(table, index); }

    static WF_INLINE __m128i packed(Sixteen bytes) { return _mm_set_epi64x(int64_t(bytes.last), int64_t(bytes.first)); }
    static WF_INLINE Words words(Sixteen bytes) {
        Words words;
        _mm256_storeu_si256((__m256i *)words.of, _mm256_cvtepi8_epi16(packed(bytes)));
        return words;
    }
    // Sixteen bytes have one scale.
    static WF_INLINE H pick(const Words &words, const uint16_t *index) {
        return (H)_mm256_set_m128i(_mm_set1_epi16(words.of[index[8]]), _mm_set1_epi16(words.of[index[0]]));
    }
    static WF_INLINE Floats floats_of(Sixteen bytes, float factor) {
        const __m128i low = packed(bytes), high = _mm_unpackhi_epi64(low, low);
        const __m256 all = _mm256_set1_ps(factor);
        Floats floats;
        _mm256_storeu_ps(floats.of, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), all));
        _mm256_storeu_ps(floats.of + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)), all));
        return floats;
    }
    // All of them lie among the first eight or among the last.
    static WF_INLINE F pick(const Floats &floats, const uint32_t *index) {
        const __m256 eight = _mm256_loadu_ps(floats.of + (index[0] & 8));
        return (F)_mm256_permutevar8x32_ps(eight, _mm256_loadu_si256((const __m256i *)index));
    }

    static WF_INLINE U dot_scaled(U sum, B w, const int8_t *x, H scales) {
        const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, _mm256_load_si256((const __m256i *)x));
        return sum + (U)_mm256_madd_epi16(pairs, (__m256i)scales);
    }
    template <bool FULL>
    static WF_INLINE U dot_block(U sum, B w, const int8_t *x) {
        const __m256i right = _mm256_load_si256((const __m256i *)x), ones = _mm256_set1_epi16(1);
        if constexpr (!FULL) {  // |x| is unsigned, up to 128; the code, of another sign, is at most 127
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(right), _mm256_sign_epi8((__m256i)w, right));
            return sum + (U)_mm256_madd_epi16(pairs, ones);
        }
        // even bytes, then odd ones, in 16 bits: sums of two products each
        const __m256i even = _mm256_madd_epi16(low_words((__m256i)w), low_words(right));
        const __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16((__m256i)w, 8), _mm256_srai_epi16(right, 8));
        return sum + (U)_mm256_add_epi32(even, odd);
    }
    static WF_INLINE U dot_pairs(U sum, U w, U x) { return sum + (U)_mm256_madd_epi16((__m256i)w, (__m256i)x); }
    static WF_INLINE __m256i low_words(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
};

}  // namespace
}  // namespace wf
