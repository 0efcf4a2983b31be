// Sixteen words in AVX512 with VNNI and VBMI: for products of bytes. Codes of weights are unsigned, 128 higher than they are: a sum
// begins at -128 times that of x.
#pragma once

#include "avx512.h"
#include "int8_vector.h"

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

    static WF_INLINE U dot4(U sum, B w, B x) { return (U)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
    static WF_INLINE F floats(U sum) { return (F)_mm512_cvtepi32_ps((__m512i)sum); }
    static WF_INLINE __m512i e2m1_table() { return _mm512_load_si512(int8_tables().e2m1); }
    static WF_INLINE void e2m1(__m512i table, U codes, U shift, B &low, B &high) {
        const __m512i nibbles = _mm512_set1_epi8(15);
        const __m512i above = (__m512i)(shift * 0x10101010), both = (__m512i)codes;
        // codes & 15 | above
        const __m512i first = _mm512_ternarylogic_epi32(both, nibbles, above, 0xEA);
        const __m512i last = _mm512_ternarylogic_epi32(_mm512_srli_epi32(both, 4), nibbles, above, 0xEA);
        low = (B)_mm512_permutexvar_epi8(first, table), high = (B)_mm512_permutexvar_epi8(last, table);
    }
    struct E4m3 {
        __m512i plus, minus;
    };
    static WF_INLINE E4m3 e4m3_table() {
        const __m512i below = _mm512_loadu_si512(int8_below_e4m3()), zero = _mm512_set1_epi8(-128);
        return {_mm512_add_epi8(zero, below), _mm512_sub_epi8(zero, below)};
    }
    static WF_INLINE B e4m3(const E4m3 &table, B codes, B most) {
        const __m512i code = (__m512i)codes, magnitude = _mm512_and_si512(code, _mm512_set1_epi8(127));
        const __m512i below = _mm512_min_epu8(_mm512_sub_epi8((__m512i)most, magnitude), _mm512_set1_epi8(63));
        const __m512i halves = _mm512_srli_epi16(code, 1);  // below | halves & 64
        const __m512i index = _mm512_ternarylogic_epi32(below, halves, _mm512_set1_epi8(64), 0xF8);
        return (B)_mm512_permutex2var_epi8(table.plus, index, table.minus);
    }
};

}  // namespace
}  // namespace wf
