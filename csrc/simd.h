// A vector of N floats over the compilers' vector extensions: what the attention and index kernels are written in.
// An instruction set takes it at its own width and replaces what it does better. Pairs are N words of two bfloat16.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace wf {

// (GCC 12 loses a vector_size that depends on a template's argument.)
template <int N>
struct Words;
#define WF_WORDS(N)                                             \
    template <>                                                 \
    struct Words<N> {                                           \
        typedef float F __attribute__((vector_size(4 * N)));    \
        typedef uint32_t U __attribute__((vector_size(4 * N))); \
        typedef uint16_t H __attribute__((vector_size(4 * N))); \
        typedef int16_t I __attribute__((vector_size(4 * N)));  \
        typedef uint8_t B __attribute__((vector_size(4 * N)));  \
        typedef int8_t B2 __attribute__((vector_size(2 * N)));  \
        typedef uint8_t B4 __attribute__((vector_size(N)));     \
    };
WF_WORDS(4)
WF_WORDS(8)
WF_WORDS(16)
#undef WF_WORDS

template <int N>
struct Vector {
    static constexpr int LANES = N;
    static constexpr int TILE_ROWS = 2, TILE_VECTORS = 2;    // of a product that is held in registers
    static constexpr int FLOAT_ROWS = 6, FLOAT_VECTORS = 2;  // the same in float32 (gemm_float.h)
    static constexpr bool FIXED_FP4 = false;                 // pairs of 16-bit integers are fast (rows_fixed.h)
    static constexpr bool MULTIPLIES_PAIRS = false;          // `dot` is an instruction
    static constexpr bool MULTIPLIES_QUADS = false;          // and so is a product of 2 x 2 rows (gemm_quads.h)
    static constexpr int TOGETHER = 4;                       // rows of x that meet a weight row in registers: 4 or 8
    using F = typename Words<N>::F;
    using U = typename Words<N>::U;
    using H = typename Words<N>::H;  // 2 N words of 16 bits, and the same signed
    using I = typename Words<N>::I;
    using B = typename Words<N>::B;  // 4 N bytes

    template <class V, class T>
    static WF_INLINE V read(const T *from) {
        V value;
        __builtin_memcpy(&value, from, sizeof value);
        return value;
    }
    template <class V, class T>
    static WF_INLINE void write(T *to, V value) {
        __builtin_memcpy(to, &value, sizeof value);
    }
    static WF_INLINE F load(const float *from) { return read<F>(from); }
    static WF_INLINE void store(float *to, F value) { write(to, value); }
    static WF_INLINE U pairs(const uint32_t *from) { return read<U>(from); }
    static WF_INLINE F all(float value) { return value - F{}; }
    static WF_INLINE U all_pairs(uint32_t value) { return value | U{}; }
    static WF_INLINE F bits(U value) { return (F)value; }

    // sum + a.low * b.low + a.high * b.high
    static WF_INLINE F dot(F sum, U a, U b) {
        const U high = all_pairs(0xFFFF0000);
        sum += bits(a << 16) * bits(b << 16);
        return sum + bits(a & high) * bits(b & high);
    }
    static WF_INLINE F fma(F a, F b, F c) { return a * b + c; }
    static WF_INLINE F max(F a, F b) { return a > b ? a : b; }
    static WF_INLINE float sum(F value) {
        float lanes[N], total = 0;
        store(lanes, value);
        for (int i = 0; i < N; i++) total += lanes[i];
        return total;
    }
    static WF_INLINE float largest(F value) {
        float lanes[N], top;
        store(lanes, value);
        top = lanes[0];
        for (int i = 1; i < N; i++) top = lanes[i] > top ? lanes[i] : top;
        return top;
    }
    // Values that are not NaN, to nearest, ties to even.
    static WF_INLINE U round(F value) {
        const U word = (U)value;
        return (word + 0x7FFF + (word >> 16 & 1)) >> 16;
    }
    static WF_INLINE F rounded(F value) { return bits(round(value) << 16); }
    static WF_INLINE U words(const uint16_t *from) {
        U wide;
        for (int i = 0; i < N; i++) wide[i] = from[i];
        return wide;
    }
    static WF_INLINE F widen(const uint16_t *from) { return bits(words(from) << 16); }
    static WF_INLINE F of_bytes(const int8_t *from) {
        F wide;
        for (int i = 0; i < N; i++) wide[i] = from[i];
        return wide;
    }
    static WF_INLINE void narrow(uint16_t *to, F value) {
        const U wide = round(value);
        for (int i = 0; i < N; i++) to[i] = uint16_t(wide[i]);
    }
    // The words (low[i], high[i]).
    static WF_INLINE U zip(const uint16_t *low, const uint16_t *high) { return words(low) | words(high) << 16; }
    // e^x for x <= 0 to two units in the last place; below 2^-126, zero.
    static WF_INLINE F exp(F x) {
        const F least = all(-87.3f);
        const F z = x < least ? least : x, shift = all(0x1.8p23f);
        const F whole = z * 1.44269504f + shift;  // the nearest integer in the low bits
        const F n = whole - shift;
        const F r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
        F p = all(1.9875691e-4f);
        p = p * r + 1.3981999e-3f;
        p = p * r + 8.3334519e-3f;
        p = p * r + 4.1665796e-2f;
        p = p * r + 1.6666667e-1f;
        p = p * r + 5.0000000e-1f;
        p = p * r * r + r + 1.0f;
        const F value = (F)((U)p + ((U)whole << 23));
        return x < least ? F{} : value;
    }
    // N x N words: out[j][i] = in[i][j]; strides in words.
    static WF_INLINE void transpose(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) out[j * out_stride + i] = read<uint32_t>(in + i * in_stride + j);
    }
    // Scales under which a product is neither subnormal nor infinite: outside, the plain code rounds.
    static WF_INLINE bool tame(uint8_t scale) { return scale >= 24 && scale <= 240; }
    // `count` (a multiple of 32) e4m3 codes under one scale. Under a tame one a value's bfloat16 bits are its code's,
    // moved, and an exponent; codes below 8 are subnormal, and normal afterwards.
    static WF_INLINE void fp8(const uint8_t *codes, int count, uint8_t scale, uint16_t *out) {
        if (!tame(scale)) {
            for (int i = 0; i < count; i++) out[i] = float_to_bf16(e4m3_to_float(codes[i]) * e8m0_to_float(scale));
            return;
        }
        const uint16_t power = uint16_t((int(scale) - 127) * 128);
        for (int i = 0; i < count; i += 2 * N) {
            const I code = __builtin_convertvector(read<typename Words<N>::B2>(codes + i), I), m = code & 127;
            const H magnitude = (H)m;
            H bits = (H)(m > 0) & uint16_t(0x3B00 + power);
            bits = m > 1 ? (magnitude << 6) + uint16_t(0x3B00 + power) : bits;
            bits = m > 3 ? (magnitude << 5) + uint16_t(0x3B80 + power) : bits;
            bits = m > 7 ? (magnitude << 4) + uint16_t(0x3C00 + power) : bits;
            bits = m == 127 ? H{} + uint16_t(0x7FC0) : bits;
            write(out + i, bits | ((H)code & uint16_t(0x8000)));
        }
    }
    // 32 e2m1 codes under one scale.
    static WF_INLINE void fp4(const uint8_t *codes, uint8_t scale, uint16_t *out) {
        if (!tame(scale)) {
            for (int i = 0; i < 32; i++)
                out[i] = float_to_bf16(e2m1_to_float(uint8_t(codes[i / 2] >> 4 * (i & 1) & 15)) * e8m0_to_float(scale));
            return;
        }
        const uint16_t half = uint16_t(0x3F00 + (int(scale) - 127) * 128);
        for (int i = 0; i < 16; i += N) {
            const U byte = __builtin_convertvector(read<typename Words<N>::B4>(codes + i), U);
            const H code = (H)(byte | byte << 12), magnitude = code & 7;  // a word's lowest bits are its code
            const H bits = ((H)((I)magnitude > 0) & half) + ((H)((I)magnitude > 1) & magnitude << 6);
            write(out + 2 * i, bits | (code << 12 & uint16_t(0x8000)));
        }
    }
};

// C[r][j] += sum_k A[r][k] . B[k][j] over pairs: A [R, k] with rows `lda` words apart, B [k, V vectors] with rows `ldb`.
// (Pairs are read through `read`: where they were written as uint16_t, a plain access would break the aliasing rules.)
template <class S, int R, int V>
WF_INLINE void product(const uint32_t *a, int64_t lda, const uint32_t *b, int64_t ldb, int64_t k,
                       typename S::F (&c)[R][V]) {
    for (int64_t i = 0; i < k; i++) {
        typename S::U right[V];
#pragma GCC unroll 8
        for (int j = 0; j < V; j++) right[j] = S::pairs(b + i * ldb + j * S::LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const typename S::U left = S::all_pairs(S::template read<uint32_t>(a + r * lda + i));
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) c[r][j] = S::dot(c[r][j], left, right[j]);
        }
    }
}

// body(N, first) for tiles of N = R rows of `count`, then for the fewer that are left; N is a constant.
template <int R, class Body>
WF_INLINE void left_over(int64_t left, int64_t first, const Body &body) {
    if (left == R) body(std::integral_constant<int, R>(), first);
    else if constexpr (R > 1) left_over<R - 1>(left, first, body);
}

template <int R, class Body>
WF_INLINE void by_tiles(int64_t count, const Body &body) {
    int64_t first = 0;
    for (; first + R <= count; first += R) body(std::integral_constant<int, R>(), first);
    if (first < count) left_over<R - 1>(count - first, first, body);
}

}  // namespace wf
