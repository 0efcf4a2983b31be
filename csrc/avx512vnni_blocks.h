// GGUF's blocks in AVX512 with VNNI, VBMI and GFNI: a strip is one vector, and scales are looked up for all of it at once.
#pragma once

#include "avx512vnni.h"
#include "block_vector.h"

namespace wf {
namespace {

// Values of codes of BITS bits, 128 too high, by six bits of an index that hold a code and its sign somewhere.
template <int BITS>
struct Values {
    uint8_t of[64];
    constexpr Values(int code_at, int sign_at) : of() {
        for (int i = 0; i < 64; i++) {
            const int code = i >> code_at & ((1 << BITS) - 1), value = BITS == 2 ? IQ2_VALUES[code] : IQ3_VALUES[code];
            of[i] = uint8_t(128 + (i >> sign_at & 1 ? -value : value));
        }
    }
};

// Bit i of a byte that a matrix over GF(2) makes is the parity of the bits `rows[i]`.
constexpr long long bit_matrix(const uint8_t (&rows)[8]) {
    uint64_t all = 0;
    for (int i = 0; i < 8; i++) all |= uint64_t(rows[i]) << 8 * (7 - i);
    return (long long)all;
}

struct Avx512Blocks : BlockVector<Avx512Vnni> {
    static constexpr bool SHUFFLES_ALL = true;
    static constexpr int BLOCK_ROWS = 3, BLOCK_VECTORS = 4;

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
    struct Spread {
        __m512 of;  // for each word of a strip
    };
    static WF_INLINE F pick(const Spread &floats, const uint32_t *) { return (F)floats.of; }
    static WF_INLINE F part(const Floats &floats, int) { return (F)floats.of; }

    static WF_INLINE U dot_scaled(U sum, B w, const int8_t *x, H scales) {
        const __m512i pairs = _mm512_maddubs_epi16((__m512i)w, _mm512_load_si512(x));
        return (U)_mm512_dpwssd_epi32((__m512i)sum, pairs, (__m512i)scales);
    }
    template <bool FULL>
    static WF_INLINE U dot_block(U sum, B w, const int8_t *x) {
        return (U)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_load_si512(x));
    }

    static WF_INLINE U dot_pairs(U sum, U w, U x) {
        return (U)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
    }

    // Where byte i of the vectors' bytes, N of them in turns, stands in two of them.
    template <int N>
    struct Turns {
        uint8_t of[64 * N];
        constexpr Turns() : of() {
            for (int i = 0; i < 64 * N; i++) of[i] = uint8_t(i / N + i % 2 * 64);
        }
    };
    static WF_INLINE void zip_two(B a, B b, int8_t *to) {
        alignas(64) static constexpr Turns<2> turns;
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++)
            _mm512_storeu_si512(to + 64 * i,
                                _mm512_permutex2var_epi8((__m512i)a, _mm512_load_si512(turns.of + 64 * i), (__m512i)b));
    }
    static WF_INLINE void zip_four(const B (&w)[4], int8_t *to) {
        alignas(64) static constexpr Turns<4> turns;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512i index = _mm512_load_si512(turns.of + 64 * i);
            const __m512i first = _mm512_permutex2var_epi8((__m512i)w[0], index, (__m512i)w[1]);
            const __m512i last = _mm512_permutex2var_epi8((__m512i)w[2], index, (__m512i)w[3]);
            _mm512_storeu_si512(to + 64 * i, _mm512_mask_mov_epi8(first, 0xCCCCCCCCCCCCCCCC, last));
        }
    }

    // A strip's 16 bytes have one scale: of each four bytes of a table, one for each strip, the products of a scale by 0 .. 3.
    static WF_INLINE void q2_k_scaled(const uint8_t *b, B (&w)[4]) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)b);
        const __m512i scales = _mm512_and_si512(_mm512_broadcast_i32x4(bytes), _mm512_set1_epi8(15));
        const __m512i places = _mm512_set_epi32(0x0F0F0F0F, 0x0D0D0D0D, 0x0B0B0B0B, 0x09090909, 0x0E0E0E0E, 0x0C0C0C0C,
                                                0x0A0A0A0A, 0x08080808, 0x07070707, 0x05050505, 0x03030303, 0x01010101,
                                                0x06060606, 0x04040404, 0x02020202, 0x00000000);
        const __m512i one = _mm512_shuffle_epi8(scales, places);
        const __m512i odd = _mm512_maskz_mov_epi8(0xAAAAAAAAAAAAAAAA, one);
        const __m512i table = _mm512_mask_add_epi8(odd, 0xCCCCCCCCCCCCCCCC, odd, _mm512_add_epi8(one, one));
        const __m512i four = _mm512_loadu_si512(b + 16), codes = _mm512_set1_epi8(3);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {  // (four >> 2 v) & 3 | 4 v
            const __m512i strip = _mm512_set1_epi8(char(4 * v)), moved = _mm512_srli_epi16(four, unsigned(2 * v));
            w[v] = (B)_mm512_shuffle_epi8(table, _mm512_ternarylogic_epi32(moved, codes, strip, 0xEA));
        }
    }
    static WF_INLINE F q2_k_minima(const uint8_t *b) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)b));
        const __m512 minima = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
        return (F)_mm512_mul_ps(minima, _mm512_set1_ps(-half(b + 82)));
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
    // Of eight signs, the last the parity of the others, which `fields` have from bit FIRST on: in even bytes the first four, in
    // odd ones the last four, twice.
    template <int FIRST>
    static WF_INLINE __m512i signs_twice(__m512i fields) {
        constexpr int F = FIRST, ALL = 127 << F;
        static constexpr uint8_t lower[8] = {1 << F, 2 << F, 4 << F, 8 << F, 1 << F, 2 << F, 4 << F, 8 << F};
        static constexpr uint8_t upper[8] = {16 << F, 32 << F, 64 << F, ALL, 16 << F, 32 << F, 64 << F, ALL};
        const __m512i even = _mm512_gf2p8affine_epi64_epi8(fields, _mm512_set1_epi64(bit_matrix(lower)), 0);
        return _mm512_mask_gf2p8affine_epi64_epi8(even, 0xAAAAAAAAAAAAAAAA, fields,
                                                  _mm512_set1_epi64(bit_matrix(upper)), 0);
    }
    static WF_INLINE __m512i signs_of(__m512i seven) {
        static constexpr uint8_t rows[8] = {1, 2, 4, 8, 16, 32, 64, 127};
        return _mm512_gf2p8affine_epi64_epi8(seven, _mm512_set1_epi64(bit_matrix(rows)), 0);
    }
    template <int BITS>
    static WF_INLINE B values_at(const Values<BITS> &table, __m512i index) {
        return (B)_mm512_permutexvar_epi8(index, _mm512_load_si512(table.of));
    }
    // Four codes of two bits in each byte, and their signs, twice.
    static WF_INLINE void fours(__m512i codes, __m512i signs, B (&w)[4]) {
        alignas(64) static constexpr Values<2> tables[4] = {{0, 4}, {2, 5}, {4, 2}, {4, 1}};
        const __m512i lower = _mm512_set1_epi8(15);
        const __m512i first = _mm512_ternarylogic_epi32(lower, codes, signs, 0xCA);  // codes & 15 | signs & 240
        const __m512i last = _mm512_ternarylogic_epi32(lower, signs, codes, 0xCA);
        w[0] = values_at(tables[0], first), w[1] = values_at(tables[1], first);
        w[2] = values_at(tables[2], last), w[3] = values_at(tables[3], _mm512_srli_epi16(last, 2));
    }
    static WF_INLINE void iq2_xxs(const uint8_t *b, B (&w)[4]) {
        const __m512i groups = _mm512_loadu_si512(b + 2);
        // of each quadword the first four bytes, as words, and four fields of 7 bits, twice
        const __m512i places = _mm512_set_epi16(59, 58, 57, 56, 51, 50, 49, 48, 43, 42, 41, 40, 35, 34, 33, 32, 27, 26,
                                                25, 24, 19, 18, 17, 16, 11, 10, 9, 8, 3, 2, 1, 0);
        const __m512i index = _mm512_maskz_permutexvar_epi8(0x5555555555555555, places, groups);
        const __m512i fields = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x35352E2E27272020), groups);
        fours(words_at<4>(IQ2_XXS_GRID, index), signs_twice<0>(fields), w);
    }
    // The scales of its eight groups, a float for each of 16 words.
    static WF_INLINE Spread iq2_xxs_scales(const uint8_t *b) {
        const __m512i upper = (__m512i)_mm512_movehdup_ps(_mm512_loadu_ps(b + 2));
        const __m512i odd = _mm512_or_si512(_mm512_srli_epi32(upper, 27), _mm512_set1_epi32(1));
        return {_mm512_mul_ps(_mm512_cvtepi32_ps(odd), _mm512_set1_ps(half(b) * 0.125f))};
    }
    static WF_INLINE void iq2_xs(const uint8_t *b, B (&w)[4]) {
        const __m512i both = _mm512_loadu_si512(b + 2);
        const __m512i upper =
            _mm512_broadcast_i32x4(_mm_set_epi8(15, 15, 13, 13, 11, 11, 9, 9, 7, 7, 5, 5, 3, 3, 1, 1));
        fours(words_at<8>(IQ2_XS_GRID, both), signs_twice<1>(_mm512_shuffle_epi8(both, upper)), w);
    }
    static WF_INLINE void iq3_xxs(const uint8_t *b, B (&w)[4]) {
        alignas(64) static constexpr Values<3> even(0, 4), odd(0, 5);
        const __m512i groups = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        const __m512i fields = _mm512_broadcast_i32x4(
            _mm_set_epi64x(0x151515150E0E0E0E, 0x0707070700000000));  // of 7 bits, each for two indices
        // of each four bytes with the same signs, in bits 4 and 5 those of its two codes
        const __m512i pairs = _mm512_set1_epi64(0x3A30261C1A10063C), lower = _mm512_set1_epi8(15);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m512i index = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(b + 2 + 32 * half)));
            const __m128i four = _mm_loadu_si128((const __m128i *)(b + 66 + 16 * half));
            const __m512i quads = _mm512_permutexvar_epi32(groups, _mm512_castsi128_si512(four));
            const __m512i eight = signs_of(_mm512_multishift_epi64_epi8(fields, quads));
            const __m512i signs = _mm512_multishift_epi64_epi8(pairs, eight), codes = words_at<4>(IQ3_XXS_GRID, index);
            const __m512i upper = _mm512_srli_epi16(codes, 4);
            w[2 * half] = values_at(even, _mm512_ternarylogic_epi32(lower, codes, signs, 0xCA));
            w[2 * half + 1] = values_at(odd, _mm512_ternarylogic_epi32(lower, upper, signs, 0xCA));
        }
    }
};

}  // namespace
}  // namespace wf
