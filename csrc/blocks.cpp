#include "blocks.h"

#include <cmath>
#include <cstring>

#include "gguf_values.h"

namespace wf {
namespace {

constexpr int LANES = 8, LEAST = -100;  // the power of a group that counts as zero

// The largest magnitude's bits.
WF_CLONES uint16_t largest(const uint16_t *x, int64_t count) {
    uint16_t top = 0;
    for (int64_t k = 0; k < count; k++) {
        const uint16_t magnitude = x[k] & 0x7FFF;
        top = magnitude > top ? magnitude : top;
    }
    return top;
}

float power_of_two(int power) { return bits_to_float(uint32_t(127 + power) << 23); }

// codes = x * factor, below 2^22, to the nearest integer, ties to even.
WF_CLONES void to_bytes(const uint16_t *x, float factor, int32_t *codes) {
    for (int k = 0; k < UNIT; k++) {
        const float value = bf16_to_float(x[k]) * factor + 0x1.8p23f;  // the integer is in the low bits
        codes[k] = int32_t(float_to_bits(value) & 0x7FFFFF) - 0x400000;
    }
}

// The same, below 2^23, ties away from zero.
WF_CLONES void to_integers(const uint16_t *x, float factor, int32_t *codes) {
    for (int k = 0; k < UNIT; k++) {
        const float value = bf16_to_float(x[k]) * factor;
        codes[k] = int32_t(value + (value < 0 ? -0.5f : 0.5f));
    }
}

// What is left of x at 2^8 units, squared and summed, in these.
WF_CLONES double left_at_two_digits(const int32_t *codes) {
    int64_t sum = 0;
    for (int k = 0; k < UNIT; k++) {
        const int64_t rest = ((codes[k] + 128) & 255) - 128;
        sum += rest * rest;
    }
    return double(sum);
}

WF_CLONES void drop_last_digit(int32_t *codes) {
    for (int k = 0; k < UNIT; k++) codes[k] = (codes[k] + 128) & ~255;
}

struct Powers {
    int64_t sum = 0, count = 0;
    void add(const uint16_t *x, int64_t columns) {
        for (int64_t k = 0; k < columns; k += LANES)
            if (const uint16_t top = largest(x + k, columns - k < LANES ? columns - k : LANES))
                sum += (top >> 7) - 127, count++;
    }
    double mean() const { return count ? std::exp2(double(sum) / double(count)) : 0; }
};

bool everywhere() { return true; }

int64_t arranged_bytes(const Matrix &m, int64_t x_rows) { return x_rows * m.columns * 4; }

// Rows beside each other, in float32.
void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, bool int8, void *arranged) {
    float *out = static_cast<float *>(arranged);
    int8 = int8 && m.form != WF_F16;
    for (int64_t r = 0; r < x_rows; r++, x += m.columns, out += m.columns)
        for (int64_t k = 0; k < m.columns; k += UNIT) {
            const int64_t count = m.columns - k < UNIT ? m.columns - k : UNIT;
            const FixedUnit unit(x + k, count, 1);
            for (int64_t i = 0; i < count; i++)
                out[k + i] = int8 ? float(unit.codes[i]) * unit.scale : bf16_to_float(x[k + i]);
        }
}

void rows(const Matrix &m, const Feed &, const void *arranged, int x_rows, int64_t first, int64_t end, float *y,
          int64_t stride) {
    const float *x = static_cast<const float *>(arranged);
    const int64_t each = block_size(m.form).values;
    for (int64_t n = first; n < end; n++) {
        float total[MAX_ROWS][LANES] = {};
        for (int64_t k = 0; k < m.columns; k += each) {
            float w[UNIT];
            values_of(m, n, k, each, w);
            for (int r = 0; r < x_rows; r++)
                for (int64_t j = 0; j < each; j++) total[r][j % LANES] += w[j] * x[r * m.columns + k + j];
        }
        for (int r = 0; r < x_rows; r++) {
            float sum = 0;
            for (int l = 0; l < LANES; l++) sum += total[r][l];
            y[r * stride + n] = sum;
        }
    }
}

}  // namespace

FixedUnit::FixedUnit(const uint16_t *x, int64_t columns, int digits) {
    uint16_t padded[UNIT];
    if (columns < UNIT) {
        std::memset(padded, 0, sizeof padded);
        std::memcpy(padded, x, size_t(2 * columns));
        x = padded;
    }
    const uint16_t top = largest(x, UNIT);
    const int power = ((top + 1) >> 7) - 127;
    if (power < LEAST || top >= 0x7F80) {
        std::memset(codes, 0, sizeof codes);
        scale = power < LEAST ? 0 : bits_to_float(0x7FC00000);
    } else if (digits == 1) {
        to_bytes(x, 127 / bf16_to_float(top), codes);
        scale = bf16_to_float(top) / 127;
    } else {  // the largest magnitude is at most 254 / 255 of 2^(power + 1), so that its first digit is at most 127
        to_integers(x, power_of_two(22 - power), codes);
        scale = power_of_two(power - 22);
        if (digits == 2) drop_last_digit(codes);
    }
}

int digits_of(const uint16_t *x, int64_t columns) {
    Powers powers;
    double left = 0;
    for (int64_t k = 0; k < columns; k += UNIT) {
        const int64_t count = columns - k < UNIT ? columns - k : UNIT;
        const FixedUnit unit(x + k, count, MOST_DIGITS);
        powers.add(x + k, count);
        left += left_at_two_digits(unit.codes) * double(unit.scale) * double(unit.scale);
    }
    const double norm = double(columns) * 0x1p-22 * powers.mean();
    return left > norm * norm ? 3 : 2;  // (of NaN, two are as good)
}

const BlockKernels generic_blocks = {everywhere, nullptr, MAX_ROWS, arranged_bytes, arrange, rows, generic_many};

}  // namespace wf
