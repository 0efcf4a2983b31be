// Products of FP4 weights by pairs of 16-bit integers, for instruction sets where those are faster than decoding to floats.
//
//   weights    256 times 2 |value|, an integer up to 12, beside its sign: one look-up, then one step for each 2 L columns
//   x          8 columns have a power of two in common, under which each value is high + low / 2^15, 16 bits each: exact
//              as far as 2^-22 of their largest. Where a row's `low` is nothing, it is left out, and the smallest others, up to
//              a norm of n 2^-24 of the powers' mean for n columns: as much as float32 rounds away from n random sums
//
// The sums are of integers, thus exact, until scales come in: a row's bits do not depend on the rows beside it. A row of
// x with an infinity or NaN gives NaN.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace wf {

// Twice the values of e2m1.
constexpr uint8_t E2M1_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, 255, 254, 253, 252, 250, 248, 244};

template <class S>
struct FixedRows {
    using F = typename S::F;
    using U = typename S::U;
    using B = typename S::B;
    static constexpr int L = S::LANES, COLUMNS = 8 * L, VECTORS = 4;  // vectors of 2 L columns
    static constexpr int GROUP = 8;                                   // columns of a lane, under one power of two
    static constexpr int PER_CHUNK = CHUNK / COLUMNS;
    static constexpr int LEAST = -112;  // of a group's power: `low` then holds subnormal values, too

    // The x of COLUMNS columns. Element i of vector v is that of column(v, i).
    struct alignas(64) Block {
        int16_t high[VECTORS][2 * L], low[VECTORS][2 * L];
        float scale[L];    // of each lane's columns
        uint32_t has_low;  // in this row of x or one beside it
        double rest;       // the squares of `low`, as parts of x, while a row is arranged
    };

    static constexpr int column(int v, int i) { return 2 * (2 * i + v % 2) + v / 2; }

    static void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, Block *out) {
        const int64_t count = m.chunks() * PER_CHUNK;
        // rows stand beside each other chunk by chunk, blocks within a chunk
        const auto at = [&](int64_t r, int64_t i) -> Block & {
            return out[(i / PER_CHUNK * x_rows + r) * PER_CHUNK + i % PER_CHUNK];
        };
        for (int64_t r = 0; r < x_rows; r++) {
            Powers powers;
            for (int64_t i = 0; i < count; i++)
                arrange_block(x + r * m.columns + i * COLUMNS, m.columns - i * COLUMNS, at(r, i), powers);
            const double norm = double(m.columns) * 0x1p-24 * powers.mean();
            double left_out = norm * norm;
            for (int64_t i = 0; i < count; i++) {
                Block &block = at(r, i);
                block.has_low = block.rest > left_out;
                if (block.has_low) continue;
                left_out -= block.rest;
                if (block.rest > 0) std::memset(block.low, 0, sizeof block.low);
            }
        }
        for (int64_t i = 0; i < count; i++) {
            uint32_t has_low = 0;
            for (int64_t r = 0; r < x_rows; r++) has_low |= at(r, i).has_low;
            for (int64_t r = 0; r < x_rows; r++) at(r, i).has_low = has_low;
        }
    }

    // sum[r] += the columns of a block. `x`: the block of the first row, others PER_CHUNK after another.
    template <int R>
    static WF_INLINE void block(const uint8_t *codes, F scales, const Block *x, F (&sum)[R]) {
        const B both = S::template read<B>(codes);
        const U low = (U)S::look_up(E2M1_TWICE, both & 15), high = (U)S::look_up(E2M1_TWICE, both >> 4);
        const U upper = S::all_pairs(0xFF00FF00);
        const U w[VECTORS] = {S::shift_words(low), low & upper, S::shift_words(high), high & upper};
        F parts[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) parts[r] = S::floats(sum_of(w, x[r * PER_CHUNK].high));
        if (x->has_low) {
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                parts[r] = S::fma(S::floats(sum_of(w, x[r * PER_CHUNK].low)), S::all(0x1p-15f), parts[r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[r] = S::fma(parts[r] * S::load(x[r * PER_CHUNK].scale), scales, sum[r]);
    }

  private:
    static WF_INLINE U sum_of(const U (&w)[VECTORS], const int16_t (&x)[VECTORS][2 * L]) {
        U sum = S::dot_words(w[0], S::template read<U>(x[0]));
#pragma GCC unroll 4
        for (int v = 1; v < VECTORS; v++) sum += S::dot_words(w[v], S::template read<U>(x[v]));
        return sum;
    }

    // Of lanes whose columns are not all zero. Their mean, unlike one of squares, is not that of a few large columns alone,
    // which a weight may be zero for.
    struct Powers {
        int64_t sum = 0, count = 0;
        double mean() const { return count ? std::exp2(double(sum) / double(count)) : 0; }
    };

    static void arrange_block(const uint16_t *x, int64_t columns, Block &block, Powers &powers) {
        static_assert(L == GROUP, "a vector of floats holds the columns of one lane");
        alignas(64) uint16_t beside_zeros[COLUMNS];
        if (columns < COLUMNS) {
            std::memset(beside_zeros, 0, sizeof beside_zeros);
            if (columns > 0) std::memcpy(beside_zeros, x, size_t(2 * columns));
            x = beside_zeros;
        }
        block.rest = 0;
        std::memset(block.low, 0, sizeof block.low);
        for (int lane = 0; lane < L; lane++, x += GROUP) {
            const U word = S::words(x);
            const uint32_t largest = uint32_t(S::largest(S::floats(word & 0x7FFF)));
            const bool finite = largest < 0x7F80;
            const F value = finite ? S::bits(word << 16) : F{};
            const int power = int(largest >> 7) - 127 > LEAST && finite ? int(largest >> 7) - 127 : LEAST;
            // the largest magnitude is below 2^(power + 1): 15 bits. Under `shift`, an integer is a float's last bits
            const F shift = S::all(0x1.8p23f), scaled = value * bits_to_float(uint32_t(127 + 14 - power) << 23);
            const F high = scaled + shift, left = (scaled - (high - shift)) * 0x1p15f, low = left + shift;
            const float rest = S::sum((low - shift) * (low - shift));
            block.rest += rest * power_of_two(2 * (power - 14 - 15));
            if (finite && largest) powers.sum += power, powers.count++;
            block.scale[lane] = finite ? float(power_of_two(power - 14 - 9)) : NAN;
            place(high, lane, block.high);
            if (rest > 0) place(low, lane, block.low);
        }
    }

    static double power_of_two(int power) {
        double value;
        const uint64_t bits = uint64_t(1023 + power) << 52;
        __builtin_memcpy(&value, &bits, sizeof value);
        return value;
    }

    // Columns k and 4 + k of a lane are a pair of a vector.
    static void place(F numbers, int lane, int16_t (&to)[VECTORS][2 * L]) {
        alignas(64) uint32_t bits[L];
        S::template write<F>(bits, numbers);
        for (int v = 0; v < VECTORS; v++) {
            const uint32_t *pair = bits + column(v, 0), word = (pair[0] & 0xFFFF) | pair[4] << 16;
            __builtin_memcpy(to[v] + 2 * lane, &word, sizeof word);
        }
    }
};

}  // namespace wf
