#include "quantize.h"

#include "kernels.h"

namespace wf {
namespace {

// The largest magnitude's bits in x[first .. end): magnitudes of bfloat16 order like integers, NaN on top.
uint16_t largest(const uint16_t *x, int64_t first, int64_t end) {
    uint16_t top = 0;
    for (int64_t k = first; k < end; k++) {
        const uint16_t magnitude = x[k] & 0x7FFF;
        top = magnitude > top ? magnitude : top;
    }
    return top;
}

// The byte of 2^ceil(log2(max(amax, floor) / limit)), the quotient rounded as a float32 product.
uint32_t scale_byte(uint16_t top, float floor, float limit) {
    const float amax = bf16_to_float(top) > floor ? bf16_to_float(top) : floor;
    return (float_to_bits(amax * (1.0f / limit)) + 0x7FFFFF) >> 23;
}

constexpr float FP8_FLOOR = 1e-4f, FP4_FLOOR = 6 * 0x1p-126f;

float power(uint32_t byte) { return bits_to_float(byte << 23); }

// To 3 bits of mantissa, ties to even; below 2^-6, to multiples of 2^-9.
float to_e4m3(float value) {
    const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7FFFFFFF;
    const uint32_t normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1)) & 0xFFF00000;
    const float small = (bits_to_float(magnitude) + 0x1.8p14f) - 0x1.8p14f;
    return bits_to_float(float_to_bits(magnitude < 0x3C800000 ? small : bits_to_float(normal)) | (bits & 0x80000000));
}

// The code of a value that e4m3 holds.
uint8_t e4m3_code(float value) {
    const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7FFFFFFF, sign = bits >> 24 & 0x80;
    if (magnitude < 0x3C800000) return uint8_t(sign | uint32_t(bits_to_float(magnitude) * 512));
    return uint8_t(sign | ((magnitude >> 20) - (120 << 3)));
}

// To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code; |value| <= 6.
uint8_t e2m1_code(float value) {
    const uint32_t bits = float_to_bits(value);
    const float m = bits_to_float(bits & 0x7FFFFFFF);
    const int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.0f);
    return uint8_t(code | (bits >> 28 & 8));
}

}  // namespace

WF_CLONES void fp8_sim(const uint16_t *x, int64_t columns, int64_t block, uint16_t *out) {
    for (int64_t first = 0; first < columns; first += block) {
        const int64_t end = first + block < columns ? first + block : columns;
        const uint16_t top = largest(x, first, end);
        if (top >= 0x7F80) {
            for (int64_t k = first; k < end; k++) out[k] = 0x7FC0;
            continue;
        }
        const uint32_t byte = scale_byte(top, FP8_FLOOR, 448);
        const float scale = power(byte), reciprocal = power(254 - byte);
        for (int64_t k = first; k < end; k++)  // exact products, or so small that they round to zero
            out[k] = uint16_t(float_to_bits(to_e4m3(bf16_to_float(x[k]) * reciprocal) * scale) >> 16);
    }
}

WF_CLONES void fp8_encode(const uint16_t *x, int64_t columns, int64_t block, uint8_t *codes, uint8_t *scales) {
    for (int64_t first = 0; first < columns; first += block) {
        const int64_t end = first + block < columns ? first + block : columns;
        const uint16_t top = largest(x, first, end);
        if (top >= 0x7F80) {
            for (int64_t k = first; k < end; k++) codes[k] = 0x7F;
            scales[first / block] = 0xFF;
            continue;
        }
        const uint32_t byte = scale_byte(top, FP8_FLOOR, 448);
        const float reciprocal = power(254 - byte);
        for (int64_t k = first; k < end; k++) codes[k] = e4m3_code(to_e4m3(bf16_to_float(x[k]) * reciprocal));
        scales[first / block] = uint8_t(byte);
    }
}

WF_CLONES void fp4_encode(const uint16_t *x, int64_t columns, int64_t block, uint8_t *codes, uint8_t *scales) {
    for (int64_t first = 0; first < columns; first += block) {
        const int64_t end = first + block < columns ? first + block : columns;
        const uint16_t top = largest(x, first, end);
        const uint32_t byte = top >= 0x7F80 ? 255 : scale_byte(top, FP4_FLOOR, 6);
        const float reciprocal = byte == 255 ? 0 : power(254 - byte);
        for (int64_t k = first; k < end; k += 2) {
            const uint8_t low = e2m1_code(bf16_to_float(x[k]) * reciprocal);
            codes[k / 2] = uint8_t(low | e2m1_code(bf16_to_float(x[k + 1]) * reciprocal) << 4);
        }
        scales[first / block] = uint8_t(byte);
    }
}

WF_CLONES void fp4_sim(uint16_t *x, int64_t columns, int64_t block) {
    for (int64_t first = 0; first < columns; first += block) {
        const int64_t end = first + block < columns ? first + block : columns;
        const uint16_t top = largest(x, first, end);
        if (top >= 0x7F80) {
            for (int64_t k = first; k < end; k++) x[k] = 0x7FC0;
            continue;
        }
        const uint32_t byte = scale_byte(top, FP4_FLOOR, 6);
        const float scale = power(byte), reciprocal = power(254 - byte);
        for (int64_t k = first; k < end; k++)
            x[k] = float_to_bf16(e2m1_to_float(e2m1_code(bf16_to_float(x[k]) * reciprocal)) * scale);
    }
}

namespace {

WF_INLINE uint32_t largest(const float *x, int64_t count) {
    uint32_t top = 0;
    for (int64_t k = 0; k < count; k++) {
        const uint32_t magnitude = float_to_bits(x[k]) & 0x7FFFFFFF;
        top = magnitude > top ? magnitude : top;
    }
    return top;
}

// The byte of 2^ceil(log2(max(amax, 2^-126 limit) / limit)); 255 where amax is not finite.
WF_INLINE uint8_t weight_scale(uint32_t top, float limit) {
    if (top >= 0x7F800000) return 255;
    const float floor = limit * 0x1p-126f, amax = bits_to_float(top) > floor ? bits_to_float(top) : floor;
    return uint8_t((float_to_bits(amax * (1.0f / limit)) + 0x7FFFFF) >> 23);
}

// The nearest integer, ties to even, of 0 .. 2^22.
WF_INLINE float to_integer(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

// Bits of the product rounded to bfloat16, with the sign of `of`.
WF_INLINE uint16_t rounded(float magnitude, float of) {
    const uint32_t bits = float_to_bits(magnitude);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 | (float_to_bits(of) >> 16 & 0x8000));
}

WF_INLINE void round_fp4(const float *x, int64_t count, uint8_t byte, uint16_t *out) {
    const float scale = e8m0_to_float(byte), reciprocal = e8m0_to_float(uint8_t(254 - byte));
    for (int64_t k = 0; k < count; k++) {
        const float m = bits_to_float(float_to_bits(x[k]) & 0x7FFFFFFF) * reciprocal;
        const float low = to_integer(m * 2) * 0.5f, middle = to_integer(m), high = to_integer(m * 0.5f) * 2;
        out[k] = rounded((m < 2 ? low : m < 4 ? middle : high) * scale, x[k]);
    }
}

WF_INLINE void round_fp8(const float *x, int64_t count, uint8_t byte, uint16_t *out) {
    const float scale = e8m0_to_float(byte), reciprocal = e8m0_to_float(uint8_t(254 - byte));
    for (int64_t k = 0; k < count; k++) {
        const uint32_t magnitude = float_to_bits(x[k] * reciprocal) & 0x7FFFFFFF;
        const uint32_t normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1)) & 0xFFF00000;
        const float small = (bits_to_float(magnitude) + 0x1.8p14f) - 0x1.8p14f;
        out[k] = rounded((magnitude < 0x3C800000 ? small : bits_to_float(normal)) * scale, x[k]);
    }
}

WF_INLINE void all_nan(int64_t count, uint16_t *out) {
    for (int64_t k = 0; k < count; k++) out[k] = 0x7FC0;
}

}  // namespace

WF_CLONES void round_weights(int form, const float *weights, int64_t rows, int64_t columns, uint16_t *out, uint8_t &low,
                             uint8_t &high) {
    low = 255, high = 0;
    if (form == WF_BF16) {
        for (int64_t k = 0; k < rows * columns; k++) out[k] = float_to_bf16(weights[k]);
        return;
    }
    const int64_t block = form == WF_FP4 ? 32 : 128, together = form == WF_FP4 ? 1 : 128;
    for (int64_t row = 0; row < rows; row += together) {
        const int64_t last = row + together < rows ? row + together : rows;
        for (int64_t first = 0; first < columns; first += block) {
            const int64_t count = columns - first < block ? columns - first : block;
            uint32_t top = 0;
            for (int64_t r = row; r < last; r++) {
                const uint32_t of_row = largest(weights + r * columns + first, count);
                top = of_row > top ? of_row : top;
            }
            const uint8_t byte = weight_scale(top, form == WF_FP4 ? 6 : 448);
            if (byte > 1 && byte < low) low = byte;
            if (byte > high) high = byte;
            for (int64_t r = row; r < last; r++) {
                const int64_t at = r * columns + first;
                if (byte == 255) all_nan(count, out + at);
                else if (form == WF_FP4) round_fp4(weights + at, count, byte, out + at);
                else round_fp8(weights + at, count, byte, out + at);
            }
        }
    }
}

}  // namespace wf
