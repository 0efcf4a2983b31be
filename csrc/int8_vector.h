// What the int8 kernels need of a vector beside simd.h, in plain loops: instruction sets replace what they do better.
#pragma once

#include "int8.h"
#include "simd.h"

namespace wf {

template <class V>
struct Int8Vector : V {
    using F = typename V::F;
    using U = typename V::U;
    using B = typename V::B;
    using J = decltype(F{} > F{});  // int32 lanes
    static constexpr int L = V::LANES;
    static constexpr int OFFSET = 0;  // 128: codes of weights are unsigned, that much higher

    // sum + four products of codes of a weight and of x in each lane.
    static WF_INLINE U dot4(U sum, B w, B x) {
        int8_t left[4 * L], right[4 * L];
        V::write(left, w), V::write(right, x);
        for (int l = 0; l < L; l++) {
            int32_t four = 0;
            for (int i = 4 * l; i < 4 * l + 4; i++) four += int32_t(left[i]) * right[i];
            sum[l] += uint32_t(four);
        }
        return sum;
    }
    static WF_INLINE F floats(U sum) { return __builtin_convertvector((J)sum, F); }
    // A table of 16 bytes for each 16 lanes of bytes, and the entries at indices below 16.
    static WF_INLINE B tables(const uint8_t *const (&of)[4]) {
        uint8_t bytes[4 * L];
        for (int i = 0; i < L / 4; i++) std::memcpy(bytes + 16 * i, of[i], 16);
        return V::template read<B>(bytes);
    }
    static WF_INLINE B look_up(B table, B index) {
        B found;
        for (int i = 0; i < 4 * L; i++) found[i] = table[i / 16 * 16 + index[i]];
        return found;
    }
    // Sixteen scale bytes at a time as floats; a vector of them, four lanes for each of L / 4 from `first`.
    static WF_INLINE F scales(const uint8_t *bytes, int first) {
        F scales;
        for (int l = 0; l < L; l++) scales[l] = e8m0_to_float(bytes[first + l / 4]);
        return scales;
    }
    // The highest magnitude among 128 e4m3 codes, and these codes in int8.
    static WF_INLINE uint8_t highest(const uint8_t *codes) {
        uint8_t top = 0;
        for (int i = 0; i < CHUNK; i++) {
            const uint8_t magnitude = codes[i] & 127;
            top = magnitude > top ? magnitude : top;
        }
        return top;
    }
    static WF_INLINE void e4m3_codes(const uint8_t *codes, const uint8_t *magnitudes, int offset, uint8_t *out) {
        for (int i = 0; i < CHUNK; i++) {
            const int magnitude = magnitudes[codes[i] & 127];
            out[i] = uint8_t((codes[i] & 128 ? -magnitude : magnitude) + offset);
        }
    }
};

}  // namespace wf
