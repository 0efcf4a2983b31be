// GGUF's forms over vectors. Those with integer scales give four strips of codes, their scales and minima; the others codes that
// are OFFSET too high, and a float for each scale. The layouts in plain words: gguf_values.h.
#pragma once

#include "block_vector.h"

namespace wf {

// Which scale each pair of bytes of a strip, and each word of a group's sum, belongs to.
template <int FORM>
struct ScaleIndex {
    uint16_t pairs[STRIPS][STRIP / 2];
    uint32_t words[STRIPS][WORDS];
    constexpr ScaleIndex() : pairs(), words() {
        for (int v = 0; v < STRIPS; v++) {
            for (int i = 0; i < STRIP / 2; i++)
                pairs[v][i] = uint16_t(block_column(FORM, v, 2 * i) / scale_columns(FORM));
            const int first = v * STRIPS / strip_groups(FORM) % STRIPS;
            for (int i = 0; i < WORDS; i++)
                words[v][i] = uint32_t(block_column(FORM, first, 4 * i) / scale_columns(FORM));
        }
    }
};

constexpr bool has_minima(int form) { return form == WF_Q2_K || form == WF_Q4_K || form == WF_Q5_K; }
// How much too high the codes are that come apart.
template <class S>
constexpr int codes_above(int form) {
    return has_minima(form) ? 0 : form == WF_Q6_K ? 32 : form == WF_Q3_K ? 4 : S::OFFSET;
}

// value = d * scale * code - least * minimum
struct Head {
    Sixteen scales, minima;
    float d, least;
};

constexpr uint64_t EVERY = 0x0101010101010101;

// Signed bytes of values below 64 that are 32 too high.
WF_INLINE uint64_t minus_32(uint64_t bytes) { return ((bytes | 128 * EVERY) - 32 * EVERY) ^ 128 * EVERY; }
WF_INLINE uint64_t read_64(const uint8_t *from) {
    uint64_t value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

template <class S>
struct BlockForms {
    using B = typename S::B;
    using F = typename S::F;
    static constexpr int L = S::LANES;

    // A constant strip: `first` in its first 32 bytes, `last` in the others.
    static WF_INLINE B halves(int first, int last, int at) {
        uint8_t all[4 * L];
        for (int i = 0; i < 4 * L; i++) all[i] = uint8_t(at + i < 32 ? first : last);
        return S::bytes(all);
    }

    struct Q6K {
        static constexpr int FORM = WF_Q6_K;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const B low = S::bytes(b + STRIP * half + at);
                // bits 0 and 1 of the first 32 columns, 2 and 3 of the next, and so on
                const B high = S::twice_shifted(b + 128 + 32 * half, at);
                w[2 * half] = (low & 15) | (S::shifted_up(high, 4) & 48);
                w[2 * half + 1] = (S::shifted(low, 4) & 15) | (high & 48);
            }
        }
        static WF_INLINE Head head(const uint8_t *b) {
            const Sixteen scales = {read_64(b + 192), read_64(b + 200)};
            const float d = S::half(b + 208);
            return {scales, scales, d, 32 * d};
        }
    };

    static WF_INLINE Head head_of_q4(const uint8_t *b) {
        Head head = {{0, 0}, {0, 0}, S::half(b), S::half(b + 2)};
        scales_and_minima(b + 4, head.scales.first, head.minima.first);
        return head;
    }
    struct Q5K {
        static constexpr int FORM = WF_Q5_K;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            const B high = S::twice(b + 16, at);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const B low = S::bytes(b + 48 + STRIP * half + at);
                const int bit = 1 << 4 * half;
                w[2 * half] = (low & 15) | S::where(high, halves(bit, 4 * bit, at), 16);
                w[2 * half + 1] = (S::shifted(low, 4) & 15) | S::where(high, halves(2 * bit, 8 * bit, at), 16);
            }
        }
        static WF_INLINE Head head(const uint8_t *b) { return head_of_q4(b); }
    };
    struct Q4K {
        static constexpr int FORM = WF_Q4_K;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const B both = S::bytes(b + 16 + STRIP * half + at);
                w[2 * half] = both & 15, w[2 * half + 1] = S::shifted(both, 4) & 15;
            }
        }
        static WF_INLINE Head head(const uint8_t *b) { return head_of_q4(b); }
    };
    struct Q3K {
        static constexpr int FORM = WF_Q3_K;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            const B low = S::bytes(b + 32 + at), high = S::twice(b, at);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                w[v] = (S::shifted(low, 2 * v) & 3) | S::where(high, halves(1 << v, 16 << v, at), 4);
        }
        static WF_INLINE Head head(const uint8_t *b) {
            uint64_t first, last;
            scales_of_q3(b + 96, first, last);
            const Sixteen scales = {minus_32(first), minus_32(last)};
            const float d = S::half(b + 108);
            return {scales, scales, d, 4 * d};
        }
    };
    struct Q2K {
        static constexpr int FORM = WF_Q2_K;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            const B four = S::bytes(b + 16 + at);
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) w[v] = S::shifted(four, 2 * v) & 3;
        }
        static WF_INLINE Head head(const uint8_t *b) {
            const uint64_t first = read_64(b), last = read_64(b + 8);
            return {{first & 15 * EVERY, last & 15 * EVERY},
                    {first >> 4 & 15 * EVERY, last >> 4 & 15 * EVERY},
                    S::half(b + 80),
                    S::half(b + 82)};
        }
    };

    // Without minima.
    static WF_INLINE Head scaled(uint64_t first, uint64_t last, float d) { return {{first, last}, {0, 0}, d, 0}; }
    static WF_INLINE typename S::Floats floats_of(const Head &head) { return S::floats_of(head.scales, head.d); }
    // Of the upper four bits of eight bytes.
    static WF_INLINE uint64_t odd_scales(uint64_t bytes) { return (bytes >> 3 & 30 * EVERY) + EVERY; }

    // Values of a table, OFFSET too high.
    struct Shifted {
        uint8_t of[16];
        constexpr explicit Shifted(const int8_t (&values)[16]) : of() {
            for (int i = 0; i < 16; i++) of[i] = uint8_t(values[i] + S::OFFSET);
        }
    };
    static WF_INLINE B valued(const uint8_t (&table)[16], B nibbles) { return S::look_up_16(table, nibbles); }

    struct Q80 {
        static constexpr int FORM = WF_Q8_0, BLOCK = 34;
        static constexpr bool FULL = true;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++)
                w[v] = S::template pieces<32>(b + 2 + 2 * BLOCK * v, BLOCK, at) + uint8_t(S::OFFSET);
        }
        static WF_INLINE typename S::Floats scales(const uint8_t *b) { return S::template halves_of<BLOCK>(b); }
    };
    struct Mxfp4 {
        static constexpr int FORM = WF_MXFP4, BLOCK = 17;
        static constexpr bool FULL = false;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            static constexpr Shifted table(MXFP4_VALUES);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const B both = S::template pieces<16>(b + 1 + 4 * BLOCK * half, BLOCK, at);
                w[2 * half] = valued(table.of, both & 15), w[2 * half + 1] = valued(table.of, S::shifted(both, 4) & 15);
            }
        }
        static WF_INLINE typename S::Floats scales(const uint8_t *b) {
            uint64_t bytes = 0;
            for (int i = 0; i < 8; i++) bytes |= uint64_t(b[i * BLOCK]) << 8 * i;
            return S::powers_of(bytes);
        }
    };
    struct Iq4Xs {
        static constexpr int FORM = WF_IQ4_XS;
        static constexpr bool FULL = false;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            static constexpr Shifted table(IQ4_VALUES);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const B both = S::bytes(b + 8 + STRIP * half + at);
                w[2 * half] = valued(table.of, both & 15), w[2 * half + 1] = valued(table.of, S::shifted(both, 4) & 15);
            }
        }
        static WF_INLINE Head head(const uint8_t *b) { return scaled(minus_32(scales_of_iq4(b)), 0, S::half(b)); }
        static WF_INLINE typename S::Floats scales(const uint8_t *b) { return floats_of(head(b)); }
    };

    // A word's two bytes hold codes that come apart by shifts of `BITS`; a byte of `signs` says which columns of it are negative.
    template <int BITS, int COUNT>
    static WF_INLINE void values_of_words(B words, B signs, int at, const uint8_t (&table)[16], int first_bit, B *w) {
        const B zero = {};
#pragma GCC unroll 4
        for (int v = 0; v < COUNT; v++) {
            const B magnitude = S::look_up_16(table, S::shifted(words, BITS * v) & uint8_t((1 << BITS) - 1));
            const B minus = (B)((signs & S::odd_bytes(1 << v, first_bit << v)) != zero);
            w[v] = ((magnitude ^ minus) - minus) + uint8_t(S::OFFSET);
        }
        (void)at;
    }
    static constexpr uint8_t TWO_BITS[16] = {8, 25, 43, 0};
    static constexpr uint8_t THREE_BITS[16] = {4, 12, 20, 28, 36, 44, 52, 62};

    struct Iq2Xxs {
        static constexpr int FORM = WF_IQ2_XXS;
        static constexpr bool FULL = false;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            if constexpr (S::SHUFFLES_ALL) return S::iq2_xxs(b, w);
            uint16_t words[2 * L];
            uint8_t signs[4 * L];
            for (int i = 0; i < 2 * L; i++) {
                const int index = at / 2 + i;
                const uint8_t *group = b + 2 + index / 4 * 8;
                words[i] = IQ2_XXS_GRID[group[index % 4]];
                signs[2 * i] = signs[2 * i + 1] = SIGNS.of[read_32(group + 4) >> 7 * (index % 4) & 127];
            }
            values_of_words<2, 4>(S::template read<B>(words), S::bytes(signs), at, TWO_BITS, 16, w);
        }
        static WF_INLINE Head head(const uint8_t *b) {
            return scaled(odd_scales(S::template every_nth<8>(b + 9)), 0, S::half(b) * 0.125f);
        }
        static WF_INLINE auto scales(const uint8_t *b) {
            if constexpr (S::SHUFFLES_ALL) return S::iq2_xxs_scales(b);
            else return floats_of(head(b));
        }
    };
    struct Iq2Xs {
        static constexpr int FORM = WF_IQ2_XS;
        static constexpr bool FULL = false;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            if constexpr (S::SHUFFLES_ALL) return S::iq2_xs(b, w);
            uint16_t words[2 * L];
            uint8_t signs[4 * L];
            for (int i = 0; i < 2 * L; i++) {
                const uint16_t word = read_16(b + 2 + at + 2 * i);
                words[i] = IQ2_XS_GRID[word & 511];
                signs[2 * i] = signs[2 * i + 1] = SIGNS.of[word >> 9];
            }
            values_of_words<2, 4>(S::template read<B>(words), S::bytes(signs), at, TWO_BITS, 16, w);
        }
        static WF_INLINE Head head(const uint8_t *b) {
            const uint64_t both = read_64(b + 66);
            const Sixteen scales = S::zipped(odd_scales(both << 4), odd_scales(both));
            return scaled(scales.first, scales.last, S::half(b) * 0.125f);
        }
        static WF_INLINE typename S::Floats scales(const uint8_t *b) { return floats_of(head(b)); }
    };
    struct Iq3Xxs {
        static constexpr int FORM = WF_IQ3_XXS;
        static constexpr bool FULL = false;
        static WF_INLINE void codes(const uint8_t *b, int at, B (&w)[4]) {
            if constexpr (S::SHUFFLES_ALL) return S::iq3_xxs(b, w);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                uint16_t words[2 * L];
                uint8_t signs[4 * L];
                for (int i = 0; i < 2 * L; i++) {
                    const int index = 32 * half + at / 2 + i;
                    words[i] = IQ3_XXS_GRID[b[2 + index]];
                    const uint8_t eight = SIGNS.of[read_32(b + 66 + index / 8 * 4) >> 7 * (index / 2 % 4) & 127];
                    signs[2 * i] = uint8_t(eight >> 4 * (index % 2)), signs[2 * i + 1] = uint8_t(signs[2 * i] >> 2);
                }
                values_of_words<4, 2>(S::template read<B>(words), S::bytes(signs), at, THREE_BITS, 1, w + 2 * half);
            }
        }
        static WF_INLINE Head head(const uint8_t *b) {
            return scaled(odd_scales(S::template every_nth<4>(b + 69)), 0, S::half(b) * 0.25f);
        }
        static WF_INLINE typename S::Floats scales(const uint8_t *b) { return floats_of(head(b)); }
    };
};

// What is done with a form.
template <class S, class Act>
WF_INLINE void with_form(int form, Act &act) {
    using Forms = BlockForms<S>;
    switch (form) {
        case WF_Q8_0: return act.template run<typename Forms::Q80>();
        case WF_Q6_K: return act.template run<typename Forms::Q6K>();
        case WF_Q5_K: return act.template run<typename Forms::Q5K>();
        case WF_Q4_K: return act.template run<typename Forms::Q4K>();
        case WF_Q3_K: return act.template run<typename Forms::Q3K>();
        case WF_Q2_K: return act.template run<typename Forms::Q2K>();
        case WF_IQ4_XS: return act.template run<typename Forms::Iq4Xs>();
        case WF_IQ3_XXS: return act.template run<typename Forms::Iq3Xxs>();
        case WF_IQ2_XS: return act.template run<typename Forms::Iq2Xs>();
        case WF_IQ2_XXS: return act.template run<typename Forms::Iq2Xxs>();
        default: return act.template run<typename Forms::Mxfp4>();
    }
}

}  // namespace wf
