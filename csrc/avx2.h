// Eight floats in AVX2 with FMA and F16C, for x86-64 processors since Haswell and Zen.
#pragma once

#include <immintrin.h>

#include "int8_vector.h"
#include "rows_simd.h"

namespace wf {
namespace {

struct Avx2 : Vector<8> {
    static constexpr int TILE_ROWS = 4, TILE_VECTORS = 2;
    static constexpr bool FIXED_FP4 = true;

    static WF_INLINE F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
    static WF_INLINE F dot(F sum, U a, U b) {
        const U high = all_pairs(0xFFFF0000);
        return fma(bits(a & high), bits(b & high), fma(bits(a << 16), bits(b << 16), sum));
    }
    static WF_INLINE float sum(F value) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    static WF_INLINE float largest(F value) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    }
    static WF_INLINE U words(const uint16_t *from) {
        return (U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    }
    static WF_INLINE F widen(const uint16_t *from) { return bits(words(from) << 16); }
    static WF_INLINE F of_bytes(const int8_t *from) {
        return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
    }
    static WF_INLINE void narrow(uint16_t *to, F value) {
        const __m256i wide = (__m256i)round(value);
        const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storeu_si128((__m128i *)to, packed);
    }
    static WF_INLINE U zip(const uint16_t *low, const uint16_t *high) { return words(low) | words(high) << 16; }
    static WF_INLINE void transpose(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride) {
        __m256i a[8], b[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_si256((const __m256i *)(in + i * in_stride));
#pragma GCC unroll 8
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i += 4) {
            a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 4; i++) {
            const __m256i low = _mm256_permute2x128_si256(a[i], a[4 + i], 0x20);
            const __m256i high = _mm256_permute2x128_si256(a[i], a[4 + i], 0x31);
            _mm256_storeu_si256((__m256i *)(out + i * out_stride), low);
            _mm256_storeu_si256((__m256i *)(out + (4 + i) * out_stride), high);
        }
    }

    // 2 N codes as float16 bits are 2^-8 of their value.
    static WF_INLINE void e4m3(const uint8_t *codes, F *w) {
        const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)codes));
        const __m256i halves = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(int16_t(0xBF80)));
        w[0] = (F)_mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        w[1] = (F)_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    }
    static WF_INLINE B look_up(const uint8_t (&table)[16], B index) {
        const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
        return (B)_mm256_shuffle_epi8(both, (__m256i)index);
    }
    // Words of 16 bits: their low bytes moved up, and sums of two products each.
    static WF_INLINE U shift_words(U words) { return (U)_mm256_slli_epi16((__m256i)words, 8); }
    static WF_INLINE U dot_words(U a, U b) { return (U)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
    static WF_INLINE F floats(U value) { return (F)_mm256_cvtepi32_ps((__m256i)value); }
    static WF_INLINE B zip_first(B a, B b) { return (B)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b); }
    static WF_INLINE B zip_last(B a, B b) { return (B)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b); }
    static WF_INLINE void e2m1(const uint8_t *codes, F (&w)[8]) { e2m1_of_bytes<Avx2>(codes, w); }
    static WF_INLINE int e2m1_column(int j, int l) { return e2m1_column_of_bytes(j, l); }
    // Four lanes for each of two scales.
    static WF_INLINE F fours(const float *values, const uint8_t *scales) {
        const __m256 first = _mm256_broadcast_ss(values + scales[0]), last = _mm256_broadcast_ss(values + scales[1]);
        return (F)_mm256_blend_ps(first, last, 0xF0);
    }
};

struct Avx2Int8 : Int8Vector<Avx2> {
    static constexpr int INT8_TILE_ROWS = 4, INT8_TILE_VECTORS = 2;

    // Bytes of |w| times those of x with its sign: at most 2 * 128 * 127, which 16 bits hold.
    static WF_INLINE U dot4(U sum, B w, B x) {
        const __m256i pairs =
            _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)x, (__m256i)w));
        return sum + (U)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    static WF_INLINE __m256i e2m1_table() {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)INT8_OF_E2M1));
    }
    static WF_INLINE void e2m1(__m256i table, U codes, U, B &low, B &high) {
        const B both = (B)codes;
        low = (B)_mm256_shuffle_epi8(table, (__m256i)(both & 15));
        high = (B)_mm256_shuffle_epi8(table, (__m256i)(both >> 4));
    }
    struct E4m3 {
        __m256i parts[4];
    };
    static WF_INLINE E4m3 e4m3_table() {
        E4m3 table;
        for (int i = 0; i < 4; i++)
            table.parts[i] =
                _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(int8_below_e4m3() + 16 * i)));
        return table;
    }
    static WF_INLINE B e4m3(const E4m3 &table, B codes, B most) {
        const __m256i code = (__m256i)codes, magnitude = _mm256_and_si256(code, _mm256_set1_epi8(127));
        const __m256i below = _mm256_min_epu8(_mm256_sub_epi8((__m256i)most, magnitude), _mm256_set1_epi8(63));
        const __m256i high = _mm256_slli_epi16(below, 3), higher = _mm256_slli_epi16(below, 2);  // bits 4 and 5 on top
        const __m256i a = _mm256_blendv_epi8(_mm256_shuffle_epi8(table.parts[0], below),
                                             _mm256_shuffle_epi8(table.parts[1], below), high);
        const __m256i b = _mm256_blendv_epi8(_mm256_shuffle_epi8(table.parts[2], below),
                                             _mm256_shuffle_epi8(table.parts[3], below), high);
        const __m256i value = _mm256_blendv_epi8(a, b, higher);
        return (B)_mm256_sign_epi8(value, _mm256_or_si256(code, _mm256_set1_epi8(1)));
    }
};

}  // namespace
}  // namespace wf
