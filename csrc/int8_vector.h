// What the int8 kernels need of a vector beside simd.h, in plain loops: instruction sets replace what they do better.
#pragma once

#include "int8.h"
#include "simd.h"

namespace wf {

// Twice the e2m1 values.
constexpr int8_t INT8_OF_E2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <class V>
struct Int8Vector : V {
    using F = typename V::F;
    using U = typename V::U;
    using B = typename V::B;
    using J = decltype(F{} > F{});  // int32 lanes
    static constexpr int L = V::LANES;
    static constexpr int INT8_TILE_ROWS = 2, INT8_TILE_VECTORS = 2;
    static constexpr int OFFSET = 0;       // 128: codes of weights are unsigned, that much higher
    static constexpr bool SHIFTS = false;  // FP4's codes can be shifted on the way
    static constexpr bool GROUPS = false;  // `group` multiplies a group of columns at a time, from an Int8X
    template <int N>
    using Int8X = const Int8Record *;  // N rows of x

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
    // The words k and k + 1 of the rows n .. n + L: `line` is word k of a panel. One of GROUPS may lay them out otherwise.
    static WF_INLINE void put(uint32_t *line, int64_t n, const B (&two)[2]) {
        V::write(line + n, two[0]), V::write(line + INT8_TILE + n, two[1]);
    }
    static WF_INLINE F floats(U sum) { return __builtin_convertvector((J)sum, F); }
    // Eight e2m1 codes in each lane: the low nibbles', then the high ones'; times 2^shift of the lane with SHIFTS.
    static WF_INLINE const int8_t *e2m1_table() { return INT8_OF_E2M1; }
    static WF_INLINE void e2m1(const int8_t *table, U codes, U, B &low, B &high) {
        const B both = (B)codes;
        for (int i = 0; i < 4 * L; i++) low[i] = uint8_t(table[both[i] & 15]), high[i] = uint8_t(table[both[i] >> 4]);
    }
    // e4m3 codes whose magnitudes are at most `most`, the highest code of an exponent of at least 8.
    static WF_INLINE const uint8_t *e4m3_table() { return int8_below_e4m3(); }
    static WF_INLINE B e4m3(const uint8_t *table, B codes, B most) {
        B values;
        for (int i = 0; i < 4 * L; i++) {
            const int below = most[i] - (codes[i] & 127), magnitude = table[below < 63 ? below : 63];
            values[i] = uint8_t(codes[i] & 128 ? -magnitude : magnitude);
        }
        return values;
    }
};

}  // namespace wf
