// Sixteen floats in AVX512 (x86-64-v4): for the products in float32, and for attention with or without BF16.
#pragma once

#include <immintrin.h>

#include "simd.h"

namespace wf {
namespace {

struct Tables {
    alignas(64) uint16_t e2m1[32];
    alignas(64) uint16_t e4m3[128];
    Tables() {
        for (int i = 0; i < 32; i++) e2m1[i] = float_to_bf16(e2m1_to_float(uint8_t(i & 15)));
        for (int i = 0; i < 128; i++) e4m3[i] = float_to_bf16(e4m3_to_float(uint8_t(i)));
    }
};

// Made at the first use: nothing of this may run before the processor has been asked.
const Tables &tables() {
    static const Tables made;
    return made;
}

struct Avx512 : Vector<16> {
    static constexpr int TILE_ROWS = 4, TILE_VECTORS = 4, TOGETHER = 8, FLOAT_ROWS = 12;

    static WF_INLINE F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
    static WF_INLINE F dot(F sum, U a, U b) {
        const U high = all_pairs(0xFFFF0000);
        return fma(bits(a & high), bits(b & high), fma(bits(a << 16), bits(b << 16), sum));
    }
    static WF_INLINE float sum(F value) { return _mm512_reduce_add_ps((__m512)value); }
    static WF_INLINE float largest(F value) { return _mm512_reduce_max_ps((__m512)value); }
    static WF_INLINE U words(const uint16_t *from) {
        return (U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    }
    static WF_INLINE F widen(const uint16_t *from) { return bits(words(from) << 16); }
    static WF_INLINE F of_bytes(const int8_t *from) {
        return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
    }
    static WF_INLINE void narrow(uint16_t *to, F value) {
        _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16((__m512i)round(value)));
    }
    static WF_INLINE U zip(const uint16_t *low, const uint16_t *high) { return words(low) | words(high) << 16; }
    static WF_INLINE void transpose(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride) {
        __m512i a[16], b[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(in + i * in_stride);
#pragma GCC unroll 16
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 4; i++) {
            a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
            a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
            a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
            a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 4; i++) {
            b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
            b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xDD);
            b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
            b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xDD);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 4; i++) {
            _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88));
            _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0xDD));
            _mm512_storeu_si512(out + (4 + i) * out_stride, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88));
            _mm512_storeu_si512(out + (12 + i) * out_stride, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xDD));
        }
    }

    // 2 N codes as float16 bits are 2^-8 of their value.
    static WF_INLINE void e4m3(const uint8_t *codes, F *w) {
        const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)codes));
        const __m512i halves = _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(int16_t(0xBF80)));
        w[0] = (F)_mm512_cvtph_ps(_mm512_castsi512_si256(halves));
        w[1] = (F)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    }
    // A lane holds the codes 8 l .. 8 l + 7: shifted by 4 j bits it looks up one of them, its lowest bits alone.
    static WF_INLINE void e2m1(const uint8_t *codes, F (&w)[8]) {
        const __m512 table = _mm512_set_ps(-6, -4, -3, -2, -1.5f, -1, -0.5f, -0.0f, 6, 4, 3, 2, 1.5f, 1, 0.5f, 0);
        const __m512i eight = _mm512_loadu_si512(codes);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) w[j] = (F)_mm512_permutexvar_ps(_mm512_srli_epi32(eight, unsigned(4 * j)), table);
    }
    static WF_INLINE int e2m1_column(int j, int l) { return 8 * l + j; }
    // Four lanes for each of four scales.
    static WF_INLINE F fours(const float *values, const uint8_t *scales) {
        __m512 four = _mm512_set1_ps(values[scales[0]]);
        four = _mm512_mask_broadcastss_ps(four, 0x00F0, _mm_load_ss(values + scales[1]));
        four = _mm512_mask_broadcastss_ps(four, 0x0F00, _mm_load_ss(values + scales[2]));
        return (F)_mm512_mask_broadcastss_ps(four, 0xF000, _mm_load_ss(values + scales[3]));
    }
    // A power of two is added to the exponents of all but zeros (and NaN, which stays one).
    static WF_INLINE __m512i scaled(__m512i values, uint8_t scale) {
        const __m512i magnitude = _mm512_and_si512(values, _mm512_set1_epi16(0x7FFF));
        const __mmask32 moves = _mm512_test_epi16_mask(magnitude, magnitude) &
                                _mm512_cmplt_epi16_mask(magnitude, _mm512_set1_epi16(0x7F80));
        return _mm512_mask_add_epi16(values, moves, values, _mm512_set1_epi16(int16_t((int(scale) - 127) * 128)));
    }
    static WF_INLINE void fp8(const uint8_t *codes, int count, uint8_t scale, uint16_t *out) {
        if (!tame(scale)) return Vector<16>::fp8(codes, count, scale, out);
        const uint16_t *table = tables().e4m3;
        const __m512i t0 = _mm512_load_si512(table), t1 = _mm512_load_si512(table + 32);
        const __m512i t2 = _mm512_load_si512(table + 64), t3 = _mm512_load_si512(table + 96);
        for (int i = 0; i < count; i += 32) {
            const __m512i code = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(codes + i)));
            const __mmask32 high = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64));
            const __m512i low = _mm512_permutex2var_epi16(t0, code, t1);
            const __m512i value = _mm512_mask_mov_epi16(low, high, _mm512_permutex2var_epi16(t2, code, t3));
            const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(128)), 8);
            _mm512_storeu_si512(out + i, scaled(_mm512_or_si512(value, sign), scale));
        }
    }
    static WF_INLINE void fp4(const uint8_t *codes, uint8_t scale, uint16_t *out) {
        if (!tame(scale)) return Vector<16>::fp4(codes, scale, out);
        const __m512i table = _mm512_load_si512(tables().e2m1);
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
        const __m512i both = _mm512_or_si512(bytes, _mm512_slli_epi32(_mm512_srli_epi32(bytes, 4), 16));
        _mm512_storeu_si512(out, scaled(_mm512_permutexvar_epi16(both, table), scale));
    }
};

}  // namespace
}  // namespace wf
