// GGUF's block forms: their layouts are those of ggml (and of the package gguf), whose float32 values `gguf_values.h` has to
// the bit, which every kernel over them is held to.
#pragma once

#include "kernels.h"

namespace wf {

struct ManyRows;

// Rows first .. end, rounded to bfloat16 [end - first, columns].
void decode_rows(const Matrix &m, int64_t first, int64_t end, uint16_t *out);
// The same by an instruction set's kernels.
void decode_rows(const ManyRows &many, const Matrix &m, int64_t first, int64_t end, uint16_t *out);

// The 6-bit scales and minima of Q4_K and Q5_K, eight of each.
WF_INLINE void scales_and_minima(const uint8_t *packed, uint64_t &scales, uint64_t &minima) {
    uint32_t word[3];
    __builtin_memcpy(word, packed, sizeof word);
    constexpr uint32_t SIX = 0x3F3F3F3F, FOUR = 0x0F0F0F0F, TOP = 0x30303030;
    scales = (word[0] & SIX) | uint64_t((word[2] & FOUR) | (word[0] >> 2 & TOP)) << 32;
    minima = (word[1] & SIX) | uint64_t((word[2] >> 4 & FOUR) | (word[1] >> 2 & TOP)) << 32;
}

// The 16 scales of Q3_K, 32 above their values.
WF_INLINE void scales_of_q3(const uint8_t *packed, uint64_t &first, uint64_t &last) {
    uint64_t low;
    uint32_t high;
    __builtin_memcpy(&low, packed, sizeof low);
    __builtin_memcpy(&high, packed + 8, sizeof high);
    constexpr uint64_t FOUR = 0x0F0F0F0F0F0F0F0F;
    constexpr uint32_t TWO = 0x03030303;
    first = (low & FOUR) | (uint64_t(high & TWO) | uint64_t(high >> 2 & TWO) << 32) << 4;
    last = (low >> 4 & FOUR) | (uint64_t(high >> 4 & TWO) | uint64_t(high >> 6 & TWO) << 32) << 4;
}

// The 8 scales of IQ4_XS, 32 above their values.
WF_INLINE uint64_t scales_of_iq4(const uint8_t *block) {
    uint64_t scales = 0;
    const uint32_t high = uint32_t(block[2] | block[3] << 8);
    for (int i = 0; i < 8; i++)
        scales |= uint64_t((block[4 + i / 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4) << 8 * i;
    return scales;
}

constexpr int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Twice the values of e2m1; none is -0.
constexpr int8_t MXFP4_VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(byte - 128), for twice the values of e2m1. Unlike OCP's scale, 255 is no NaN.
WF_INLINE float half_of_e8m0(uint8_t byte) {
    return bits_to_float(byte < 2 ? 0x00200000u << byte : uint32_t(byte - 1) << 23);
}

WF_INLINE uint16_t read_16(const uint8_t *from) {
    uint16_t value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
WF_INLINE uint32_t read_32(const uint8_t *from) {
    uint32_t value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
WF_INLINE float read_half(const uint8_t *from) { return half_to_float(read_16(from)); }

}  // namespace wf
