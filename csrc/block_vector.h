// What the kernels over blocks need of a vector beside int8_vector.h, in plain loops: instruction sets replace what they do
// better. `at` is a byte of a strip, from which a vector's bytes or words begin.
#pragma once

#include "block_x.h"
#include "gguf.h"
#include "gguf_grids.h"
#include "int8_vector.h"

namespace wf {

// Sixteen bytes, which a form's scales are packed in, as two words.
struct Sixteen {
    uint64_t first, last;
};

template <class V>
struct BlockVector : V {
    using F = typename V::F;
    using U = typename V::U;
    using H = typename V::H;
    using B = typename V::B;
    static constexpr int L = V::LANES;
    static constexpr bool SHUFFLES_ALL =
        false;  // bytes and words of 64 bytes are looked up anywhere (avx512vnni_blocks.cpp)
    static constexpr int BLOCK_ROWS = 2, BLOCK_VECTORS = 2;  // of a product that is held in registers (block_gemm.h)

    static WF_INLINE float half(const uint8_t *from) { return read_half(from); }
    static WF_INLINE F half_values(const uint8_t *from) {
        float all[L];
        for (int i = 0; i < L; i++) all[i] = read_half(from + 2 * i);
        return V::load(all);
    }
    static WF_INLINE B bytes(const uint8_t *from) { return V::template read<B>(from); }
    // Bytes at .. of 32 that stand twice in a strip.
    static WF_INLINE B twice(const uint8_t *from, int at) {
        uint8_t all[4 * L];
        for (int i = 0; i < 4 * L; i++) all[i] = from[(at + i) % 32];
        return bytes(all);
    }
    // The same, the second time shifted down by two bits. (Bits that cross bytes are for the caller to cut off.)
    static WF_INLINE B twice_shifted(const uint8_t *from, int at) {
        uint8_t all[4 * L];
        for (int i = 0; i < 4 * L; i++) all[i] = uint8_t(from[(at + i) % 32] >> (at + i < 32 ? 0 : 2));
        return bytes(all);
    }
    // Bytes at .. of pieces of N bytes, `stride` apart.
    template <int N>
    static WF_INLINE B pieces(const uint8_t *from, int stride, int at) {
        uint8_t all[4 * L];
        for (int i = 0; i < 4 * L; i++) all[i] = from[(at + i) / N * stride + (at + i) % N];
        return bytes(all);
    }
    static WF_INLINE H all_words(int value) {
        H all;
        for (int i = 0; i < 2 * L; i++) all[i] = uint16_t(value);
        return all;
    }
    static WF_INLINE B shifted(B value, int bits) { return (B)((H)value >> all_words(bits)); }
    static WF_INLINE B shifted_up(B value, int bits) { return (B)((H)value << all_words(bits)); }
    static WF_INLINE B odd_bytes(int even, int odd) { return (B)all_words(even | odd << 8); }
    // `value` where a bit of `of` that `bits` names is one, else 0.
    static WF_INLINE B where(B of, B bits, int value) {
        return (B)((of & bits) != 0) & (B)all_words(value | value << 8);
    }
    // table[index]: indices below 16.
    static WF_INLINE B look_up_16(const uint8_t (&table)[16], B index) {
        B found;
        for (int i = 0; i < 4 * L; i++) found[i] = table[index[i]];
        return found;
    }

    // Eight bytes that lie N apart.
    template <int N>
    static WF_INLINE uint64_t every_nth(const uint8_t *from) {
        uint64_t bytes = 0;
        for (int i = 0; i < 8; i++) bytes |= uint64_t(from[N * i]) << 8 * i;
        return bytes;
    }

    // The bytes of two vectors, of four, in turns.
    static WF_INLINE void zip_two(B a, B b, int8_t *to) {
        for (int i = 0; i < 4 * L; i++) to[2 * i] = int8_t(a[i]), to[2 * i + 1] = int8_t(b[i]);
    }
    static WF_INLINE void zip_four(const B (&w)[4], int8_t *to) {
        uint8_t all[4][4 * L];
        for (int v = 0; v < 4; v++) V::write(all[v], w[v]);
        for (int i = 0; i < 4 * L; i++)
            for (int v = 0; v < 4; v++) to[4 * i + v] = int8_t(all[v][i]);
    }

    // 16 signed bytes as words, and of these [index] for each of 2 L.
    struct Words {
        int16_t of[16];
    };
    static WF_INLINE Words words(Sixteen bytes) {
        Words words;
        for (int i = 0; i < 16; i++) words.of[i] = int8_t((i < 8 ? bytes.first : bytes.last) >> 8 * (i % 8));
        return words;
    }
    static WF_INLINE H pick(const Words &words, const uint16_t *index) {
        int16_t all[2 * L];
        for (int i = 0; i < 2 * L; i++) all[i] = words.of[index[i]];
        return V::template read<H>(all);
    }
    // 16 floats, likewise.
    struct Floats {
        float of[16];
    };
    static WF_INLINE Floats floats_of(Sixteen bytes, float factor) {
        const Words all = words(bytes);
        Floats floats;
        for (int i = 0; i < 16; i++) floats.of[i] = float(all.of[i]) * factor;
        return floats;
    }
    // Eight float16 that lie `STRIDE` bytes apart; eight scales of MXFP4.
    template <int STRIDE>
    static WF_INLINE Floats halves_of(const uint8_t *from) {
        Floats floats = {};
        for (int i = 0; i < 8; i++) floats.of[i] = read_half(from + i * STRIDE);
        return floats;
    }
    static WF_INLINE Floats powers_of(uint64_t bytes) {
        Floats floats = {};
        for (int i = 0; i < 8; i++) floats.of[i] = half_of_e8m0(uint8_t(bytes >> 8 * i));
        return floats;
    }
    // The bytes of both in turns.
    static WF_INLINE Sixteen zipped(uint64_t even, uint64_t odd) {
        Sixteen both = {0, 0};
        for (int i = 0; i < 8; i++) {
            uint64_t &half = i < 4 ? both.first : both.last;
            half |= ((even >> 8 * i & 255) | (odd >> 8 * i & 255) << 8) << 16 * (i % 4);
        }
        return both;
    }
    static WF_INLINE F pick(const Floats &floats, const uint32_t *index) {
        float all[L];
        for (int i = 0; i < L; i++) all[i] = floats.of[index[i]];
        return V::load(all);
    }
    static WF_INLINE F part(const Floats &floats, int at) { return V::load(floats.of + at / 4); }

    // sum + the four products of a word, which come in pairs that scales of 16 bits multiply; codes of a weight are at most 63.
    static WF_INLINE U dot_scaled(U sum, B w, const int8_t *x, H scales) {
        uint8_t code[4 * L];
        int16_t scale[2 * L];
        V::write(code, w), V::write(scale, scales);
        for (int i = 0; i < 4 * L; i++) sum[i / 4] += uint32_t(int32_t(code[i]) * x[i] * scale[i / 2]);
        return sum;
    }
    // sum + four products of codes, OFFSET too high, and digits. `FULL`: codes may be -128.
    template <bool FULL>
    static WF_INLINE U dot_block(U sum, B w, const int8_t *x) {
        int8_t code[4 * L];
        V::write(code, w);
        for (int i = 0; i < 4 * L; i++) sum[i / 4] += uint32_t(int32_t(code[i]) * x[i]);
        return sum;
    }
    // sum + two products of words of 16 bits, those of w below 2^15.
    static WF_INLINE U dot_pairs(U sum, U w, U x) {
        using J = decltype(F{} > F{});
        return sum + (w & 0xFFFF) * (U)((J)(x << 16) >> 16) + (w >> 16) * (U)((J)x >> 16);
    }
    static WF_INLINE F to_floats(U sum) { return V::floats(sum); }
};

}  // namespace wf
