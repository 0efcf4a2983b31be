#include "int8.h"

#include <cstring>

#include "int8_gemm.h"
#include "int8_rows.h"

namespace wf {
namespace {

constexpr uint16_t LEAST = (127 - 100) << 7;  // 2^-100

struct Codes {
    uint8_t e4m3[16][128], e2m1[2][4][16];
    Codes() {
        for (int top = 4; top < 16; top++)
            for (int code = 0; code < 128; code++) {
                const int exponent = code >> 3, mantissa = code & 7;
                const int units = exponent ? (8 + mantissa) << (exponent - 1) : mantissa;  // of 2^-9
                const int value = (units + ((1 << (top - 4)) >> 1)) >> (top - 4);
                e4m3[top][code] = uint8_t(code == 127 || value > 127 ? 0 : value);  // beyond `top`: never looked up
            }
        for (int shift = 0; shift < 4; shift++)
            for (int code = 0; code < 16; code++) {
                const int value = int(2 * e2m1_to_float(uint8_t(code))) * (1 << shift);
                e2m1[0][shift][code] = uint8_t(value), e2m1[1][shift][code] = uint8_t(value + 128);
            }
    }
};

const Codes &codes_of() {
    static const Codes codes;
    return codes;
}

struct Plain : Int8Vector<Vector<4>> {
    static constexpr int INT8_TILE_ROWS = 2, INT8_TILE_VECTORS = 2;
};

}  // namespace

const uint8_t *int8_of_e4m3(int top) { return codes_of().e4m3[top]; }
const uint8_t *int8_of_e2m1(int shift, int offset) { return codes_of().e2m1[offset != 0][shift]; }

WF_CLONES float int8_group(const uint16_t *x, int64_t count, int8_t (&codes)[INT8_GROUP]) {
    uint16_t values[INT8_GROUP] = {};
    for (int64_t k = 0; k < count; k++) values[k] = x[k];
    uint16_t top = 0;
    for (int k = 0; k < INT8_GROUP; k++) {
        const uint16_t magnitude = values[k] & 0x7FFF;
        top = magnitude > top ? magnitude : top;
    }
    if (top < LEAST || top >= 0x7F80) {
        std::memset(codes, 0, sizeof codes);
        return top < LEAST ? 0 : bits_to_float(0x7FC00000);
    }
    const float amax = bf16_to_float(top), reciprocal = 127 / amax;
    for (int k = 0; k < INT8_GROUP; k++) {  // the nearest integer in the low bits
        const float code = bf16_to_float(values[k]) * reciprocal + 0x1.8p23f;
        codes[k] = int8_t(float_to_bits(code));
    }
    return amax / 127;
}

void int8_row(const uint16_t *x, int64_t columns, bool split, uint8_t *row) {
    const int64_t width = int8_width(columns);
    float *scales = reinterpret_cast<float *>(row + width);
    int32_t *sums = reinterpret_cast<int32_t *>(scales + width / INT8_GROUP);
    for (int64_t k = 0; k < width; k += INT8_GROUP) {
        int8_t codes[INT8_GROUP];
        const int64_t left = columns - k;
        scales[k / INT8_GROUP] = int8_group(x + k, left < 0 ? 0 : left < INT8_GROUP ? left : INT8_GROUP, codes);
        int32_t sum = 0;
        for (int i = 0; i < INT8_GROUP; i++) sum += codes[i];
        sums[k / INT8_GROUP] = -128 * sum;
        uint8_t *chunk = row + k / CHUNK * CHUNK, *even = chunk + k % CHUNK / 2;
        if (split)
            for (int i = 0; i < INT8_GROUP / 2; i++)
                even[i] = uint8_t(codes[2 * i]), even[CHUNK / 2 + i] = uint8_t(codes[2 * i + 1]);
        else std::memcpy(chunk + k % CHUNK, codes, sizeof codes);
    }
}

const Int8Kernels generic_int8 = int8_kernels<Plain>([] { return true; }, nullptr);

}  // namespace wf
