#include "quantise.h"

#include "kernels.h"

namespace wf {

void fp8_sim(const uint16_t *x, int64_t columns, int64_t block, uint16_t *out) {
    for (int64_t first = 0; first < columns; first += block) {
        const int64_t end = first + block < columns ? first + block : columns;
        // magnitudes of bfloat16 order like integers, NaN on top
        uint16_t top = 0;
        for (int64_t k = first; k < end; k++) {
            const uint16_t magnitude = x[k] & 0x7FFF;
            top = magnitude > top ? magnitude : top;
        }
        if (top >= 0x7F80) {
            for (int64_t k = first; k < end; k++) out[k] = 0x7FC0;
            continue;
        }
        const float amax = bf16_to_float(top) > 1e-4f ? bf16_to_float(top) : 1e-4f;
        // 2^ceil(log2(amax / 448)), the quotient rounded as a float32 product
        const uint32_t exponent = (float_to_bits(amax * (1.0f / 448)) + 0x7FFFFF) >> 23;
        const float scale = bits_to_float(exponent << 23), reciprocal = bits_to_float((254 - exponent) << 23);
        for (int64_t k = first; k < end; k++) {
            const float value = bf16_to_float(x[k]) * reciprocal;  // exact, or so small that it rounds to zero
            const uint32_t bits = float_to_bits(value), sign = bits & 0x80000000, magnitude = bits & 0x7FFFFFFF;
            // 3 bits of mantissa, ties to even; below 2^-6, multiples of 2^-9
            const uint32_t normal = (magnitude + 0x7FFFF + (magnitude >> 20 & 1)) & 0xFFF00000;
            const float small = (bits_to_float(magnitude) + 0x1.8p14f) - 0x1.8p14f;
            const float rounded = magnitude < 0x3C800000 ? small : bits_to_float(normal);
            out[k] = uint16_t(float_to_bits(rounded * scale) >> 16 | sign >> 16);
        }
    }
}

}  // namespace wf
