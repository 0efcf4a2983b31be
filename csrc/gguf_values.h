// The values of GGUF's block forms, in loops that a compiler turns into its vectors: each instruction set has its own copy. The order of
// the operations is that of ggml's dequantize_row_*, so that all copies have the same bits.
#pragma once

#include "gguf.h"
#include "gguf_grids.h"

namespace wf {
namespace {

inline uint8_t byte_of(uint64_t bytes, int i) { return uint8_t(bytes >> 8 * i); }

inline void values_q8_0(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int k = 0; k < 32; k++) out[k] = d * float(int8_t(b[2 + k]));
}

inline void values_q6_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 208);
    for (int group = 0; group < 16; group++, out += 16) {  // 16 values with a scale
        const int half = group / 8, first = group % 8 * 16;
        const uint8_t *low = b + 64 * half + first % 64, *high = b + 128 + 32 * half + first % 32;
        const int low_bits = 4 * (first / 64), high_bits = 2 * (first / 32);
        const float scale = d * float(int8_t(b[192 + group]));
        for (int k = 0; k < 16; k++)
            out[k] = scale * float(((low[k] >> low_bits & 15) | (high[k] >> high_bits & 3) << 4) - 32);
    }
}

inline void values_q5_k(const uint8_t *b, float *out) {
    const float d = read_half(b), least = read_half(b + 2);
    uint64_t scales, minima;
    scales_and_minima(b + 4, scales, minima);
    for (int group = 0; group < 8; group++, out += 32) {
        const uint8_t *low = b + 48 + group / 2 * 32, *high = b + 16;
        const int bits = 4 * (group % 2);
        const float scale = d * float(byte_of(scales, group)), minimum = least * float(byte_of(minima, group));
        for (int k = 0; k < 32; k++)
            out[k] = scale * float((low[k] >> bits & 15) | (high[k] >> group & 1) << 4) - minimum;
    }
}

inline void values_q4_k(const uint8_t *b, float *out) {
    const float d = read_half(b), least = read_half(b + 2);
    uint64_t scales, minima;
    scales_and_minima(b + 4, scales, minima);
    for (int group = 0; group < 8; group++, out += 32) {
        const uint8_t *codes = b + 16 + group / 2 * 32;
        const int bits = 4 * (group % 2);
        const float scale = d * float(byte_of(scales, group)), minimum = least * float(byte_of(minima, group));
        for (int k = 0; k < 32; k++) out[k] = scale * float(codes[k] >> bits & 15) - minimum;
    }
}

inline void values_q3_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 108);
    uint64_t scales[2];
    scales_of_q3(b + 96, scales[0], scales[1]);
    for (int group = 0; group < 16; group++, out += 16) {
        const int first = group * 16;
        const uint8_t *low = b + 32 + first / 128 * 32 + first % 32, *high = b + first % 32;
        const int low_bits = 2 * (first / 32 % 4), bit = first / 32;
        const float scale = d * float(byte_of(scales[group / 8], group % 8) - 32);
        for (int k = 0; k < 16; k++) out[k] = scale * float(((low[k] >> low_bits & 3) | (high[k] >> bit & 1) << 2) - 4);
    }
}

inline void values_q2_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 80), least = read_half(b + 82);
    for (int group = 0; group < 16; group++, out += 16) {
        const uint8_t *codes = b + 16 + group / 8 * 32 + group % 2 * 16;
        const int bits = 2 * (group / 2 % 4);
        const float scale = d * float(b[group] & 15), minimum = least * float(b[group] >> 4);
        for (int k = 0; k < 16; k++) out[k] = scale * float(codes[k] >> bits & 3) - minimum;
    }
}

// 16 bytes with two codes each: out[0 .. 16] the low ones, out[16 .. 32] the high ones.
inline void values_of_nibbles(const uint8_t *codes, float scale, const int8_t (&table)[16], float *out) {
    float scaled[16];
    for (int i = 0; i < 16; i++) scaled[i] = scale * float(table[i]);
    for (int k = 0; k < 16; k++) out[k] = scaled[codes[k] & 15], out[16 + k] = scaled[codes[k] >> 4];
}

inline void values_iq4_xs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    const uint64_t scales = scales_of_iq4(b);
    for (int group = 0; group < 8; group++, out += 32)
        values_of_nibbles(b + 8 + group * 16, d * float(byte_of(scales, group) - 32), IQ4_VALUES, out);
}

inline float with_sign(uint32_t signs, int i, float value) { return signs >> i & 1 ? -value : value; }

inline void values_iq3_xxs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int eight = 0; eight < 32; eight++, out += 8) {
        const uint32_t word = read_32(b + 66 + eight / 4 * 4), signs = SIGNS.of[word >> 7 * (eight % 4) & 127];
        const float scale = d * (0.5f + float(word >> 28)) * 0.5f;
        const uint32_t points = IQ3_XXS_GRID[b[2 + 2 * eight]] | uint32_t(IQ3_XXS_GRID[b[3 + 2 * eight]]) << 16;
        for (int k = 0; k < 8; k++)
            out[k] = with_sign(signs, k, scale * float(IQ3_VALUES[points >> (k / 4 * 16 + k % 4 * 4) & 7]));
    }
}

inline void values_iq2_xs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int eight = 0; eight < 32; eight++, out += 8) {
        const uint16_t word = read_16(b + 2 + eight * 2);
        const float scale = d * (0.5f + float(b[66 + eight / 4] >> 4 * (eight / 2 % 2) & 15)) * 0.25f;
        const uint32_t point = IQ2_XS_GRID[word & 511], signs = SIGNS.of[word >> 9];
        for (int k = 0; k < 8; k++) out[k] = with_sign(signs, k, scale * float(IQ2_VALUES[point >> 2 * k & 3]));
    }
}

inline void values_iq2_xxs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int eight = 0; eight < 32; eight++, out += 8) {
        const uint8_t *group = b + 2 + eight / 4 * 8;
        const uint32_t word = read_32(group + 4), signs = SIGNS.of[word >> 7 * (eight % 4) & 127];
        const float scale = d * (0.5f + float(word >> 28)) * 0.25f;
        const uint32_t point = IQ2_XXS_GRID[group[eight % 4]];
        for (int k = 0; k < 8; k++) out[k] = with_sign(signs, k, scale * float(IQ2_VALUES[point >> 2 * k & 3]));
    }
}

inline void values_mxfp4(const uint8_t *b, float *out) {
    values_of_nibbles(b + 1, half_of_e8m0(*b), MXFP4_VALUES, out);
}

inline void values_f16(const uint8_t *b, float *out) { *out = read_half(b); }

// In the order of the forms from WF_Q8_0 on.
constexpr void (*VALUES[])(const uint8_t *, float *) = {values_q8_0,   values_q6_k,    values_q5_k,   values_q4_k,
                                                        values_q3_k,   values_q2_k,    values_iq4_xs, values_iq3_xxs,
                                                        values_iq2_xs, values_iq2_xxs, values_mxfp4,  values_f16};
static_assert(sizeof VALUES / sizeof *VALUES == sizeof BLOCK_SIZES / sizeof *BLOCK_SIZES, "a decoder for each form");

// `columns` columns of a row from column `first` on, both whole blocks, as float32. (A block of WF_F16 is one value.)
inline void values_of(const Matrix &m, int64_t row, int64_t first, int64_t columns, float *out) {
    const BlockSize size = block_size(m.form);
    const uint8_t *block = m.codes + row * m.row_bytes() + first / size.values * size.bytes;
    const auto decode = VALUES[m.form - WF_Q8_0];
    for (int64_t k = 0; k < columns; k += size.values, block += size.bytes) decode(block, out + k);
}

}  // namespace
}  // namespace wf
