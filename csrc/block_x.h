// A row of x as the kernels over blocks want it (blocks.h): digits in the order in which a form's codes come apart, and sums of x
// for what is added to all codes of a group.
#pragma once

#include <cstring>

#include "blocks.h"

namespace wf {

constexpr int STRIP = 64;  // bytes: a unit's 256 codes come apart as four strips
constexpr int STRIPS = UNIT / STRIP;
constexpr int WORDS = STRIP / 4;  // int32 sums of a strip

// The column of byte i of strip v.
constexpr int block_column(int form, int v, int i) {
    switch (form) {
        case WF_Q5_K:
        case WF_Q4_K: return 64 * (v / 2 * 2 + i / 32) + 32 * (v % 2) + i % 32;
        case WF_Q3_K:
        case WF_Q2_K: return 128 * (i / 32) + 32 * v + i % 32;
        case WF_IQ4_XS:
        case WF_MXFP4: return 32 * (v / 2 * 4 + i / 16) + 16 * (v % 2) + i % 16;
        case WF_IQ3_XXS: return 4 * (v / 2 * 32 + i / 2) + 2 * (i % 2) + v % 2;
        case WF_IQ2_XS:
        case WF_IQ2_XXS: return 8 * (i / 2) + 4 * (i % 2) + v;
        default: return STRIP * v + i;  // Q8_0, Q6_K
    }
}

// Columns under one scale of a block.
constexpr int scale_columns(int form) {
    return form == WF_Q6_K || form == WF_Q3_K || form == WF_Q2_K || form == WF_IQ2_XS ? 16 : 32;
}

// True where scales are integers under the block's float: 16-bit products take them in. Else a word's sum has one scale, and
// strips that agree on them are summed first.
constexpr bool has_integer_scales(int form) { return form == WF_Q6_K || (form >= WF_Q5_K && form <= WF_Q2_K); }
constexpr int strip_groups(int form) { return form == WF_Q8_0 ? 4 : form == WF_IQ2_XS || form == WF_IQ2_XXS ? 1 : 2; }

// Of D digits, the highest first.
template <int FORM, int D>
struct alignas(64) BlockX {
    static constexpr int GROUPS = has_integer_scales(FORM) ? 1 : strip_groups(FORM);
    int8_t digits[D][UNIT];
    union {
        float sums[GROUPS * WORDS];        // of x, for each scale: if scales are integers
        int32_t starts[D][GROUPS][WORDS];  // what codes that are OFFSET too high add, negated
    };
    float scale;
};

struct BlockHeader {
    alignas(64) int digits;
};

template <int FORM>
int64_t block_x_bytes(const Matrix &m, int64_t x_rows) {
    return x_rows * (int64_t(sizeof(BlockHeader)) + units_of(m) * int64_t(sizeof(BlockX<FORM, MOST_DIGITS>)));
}

// Where byte i of strip v comes from.
template <int FORM>
struct BlockColumns {
    uint8_t of[UNIT];
    constexpr BlockColumns() : of() {
        for (int i = 0; i < UNIT; i++) of[i] = uint8_t(block_column(FORM, i / STRIP, i % STRIP));
    }
};

template <int FORM, int D, int OFFSET>
void arrange_unit(const FixedUnit &unit, BlockX<FORM, D> &to) {
    static constexpr BlockColumns<FORM> columns;
    int8_t plain[D][UNIT];
    for (int k = 0; k < UNIT; k++) {
        if (D == 1) plain[0][k] = int8_t(unit.codes[k]);
        else {
            const int32_t last = unit.codes[k], middle = (last + 128) >> 8, first = (middle + 128) >> 8;
            plain[0][k] = int8_t(first), plain[1][k] = int8_t(middle);
            if (D == 3) plain[D - 1][k] = int8_t(last);
        }
    }
    for (int d = 0; d < D; d++)
        for (int i = 0; i < UNIT; i++) to.digits[d][i] = plain[d][columns.of[i]];
    to.scale = unit.scale * (D == 2 ? 256.0f : 1.0f);
    if (has_integer_scales(FORM)) {
        constexpr int EACH = scale_columns(FORM);
        for (int g = 0; g < WORDS; g++) {
            int64_t sum = 0;
            for (int k = g * EACH; k < (g + 1) * EACH && k < UNIT; k++) sum += unit.codes[k];
            to.sums[g] = float(sum) * unit.scale;
        }
        return;
    }
    constexpr int EACH = STRIPS / BlockX<FORM, D>::GROUPS;
    for (int d = 0; d < D; d++)
        for (int g = 0; g < BlockX<FORM, D>::GROUPS; g++)
            for (int word = 0; word < WORDS; word++) {
                int32_t sum = 0;
                for (int v = g * EACH; v < (g + 1) * EACH; v++)
                    for (int i = 0; i < 4; i++) sum += to.digits[d][STRIP * v + 4 * word + i];
                to.starts[d][g][word] = -OFFSET * sum;
            }
}

// `digits` of each row: at most D.
template <int FORM, int D, int OFFSET>
void arrange_digits(const Matrix &m, const uint16_t *x, int64_t x_rows, const int *digits, uint8_t *to) {
    auto *out = reinterpret_cast<BlockX<FORM, D> *>(to);
    for (int64_t u = 0; u < units_of(m); u++)  // rows beside each other, unit by unit
        for (int64_t r = 0; r < x_rows; r++) {
            const int64_t left = m.columns - u * UNIT;
            const FixedUnit unit(x + r * m.columns + u * UNIT, left < UNIT ? left : UNIT, digits[r]);
            arrange_unit<FORM, D, OFFSET>(unit, *out++);
        }
}

template <int FORM, int OFFSET>
void arrange_blocks(const Matrix &m, const uint16_t *x, int64_t x_rows, bool int8, void *arranged) {
    auto *header = static_cast<BlockHeader *>(arranged);
    int digits[MAX_ROWS], most = 1;
    for (int64_t r = 0; r < x_rows; r++) {
        digits[r] = int8 ? 1 : digits_of(x + r * m.columns, m.columns);
        most = digits[r] > most ? digits[r] : most;
    }
    header->digits = most;
    uint8_t *to = static_cast<uint8_t *>(arranged) + sizeof *header;
    if (most == 1) arrange_digits<FORM, 1, OFFSET>(m, x, x_rows, digits, to);
    else if (most == 2) arrange_digits<FORM, 2, OFFSET>(m, x, x_rows, digits, to);
    else arrange_digits<FORM, 3, OFFSET>(m, x, x_rows, digits, to);
}

}  // namespace wf
