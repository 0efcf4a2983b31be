#include "int8.h"

#include <cstring>

#include "int8_gemm.h"

namespace wf {
namespace {

constexpr uint16_t LEAST = (127 - 100) << 7;  // 2^-100

struct Codes {
    alignas(64) uint8_t of[16][128] = {}, below[64];
    Codes() {
        for (int top = 4; top < 16; top++)
            for (int code = 0; code < 8 * (top + 1) && code < 127; code++) {
                const int exponent = code >> 3, mantissa = code & 7;
                const int units = exponent ? (8 + mantissa) << (exponent - 1) : mantissa;  // of 2^-9
                const int unit = 1 << (top - 4), floor = units / unit, rest = 2 * (units % unit);
                of[top][code] = uint8_t(floor + (rest > unit || (rest == unit && floor % 2)));
            }
        below[0] = 120;  // code 127 is NaN only below an exponent of 15
        for (int i = 1; i < 64; i++) below[i] = of[15][127 - i];
    }
};

const Codes &codes() {
    static const Codes made;
    return made;
}

bool everywhere() { return true; }

// The codes of 32 values. Returns their scale.
WF_CLONES float group(const uint16_t *x, int8_t *out) {
    uint16_t top = 0;
    for (int k = 0; k < INT8_GROUP; k++) {
        const uint16_t magnitude = x[k] & 0x7FFF;
        top = magnitude > top ? magnitude : top;
    }
    if (top < LEAST || top >= 0x7F80) {
        std::memset(out, 0, INT8_GROUP);
        return top < LEAST ? 0 : bits_to_float(0x7FC00000);
    }
    const float amax = bf16_to_float(top), reciprocal = 127 / amax;
    for (int k = 0; k < INT8_GROUP; k++)  // the nearest integer in the low bits
        out[k] = int8_t(float_to_bits(bf16_to_float(x[k]) * reciprocal + 0x1.8p23f));
    return amax / 127;
}

}  // namespace

const uint8_t *int8_of_e4m3(int top) { return codes().of[top]; }
const uint8_t *int8_below_e4m3() { return codes().below; }

void int8_row(const uint16_t *x, int64_t columns, bool split, Int8Record *records, int64_t stride) {
    for (int64_t k = 0; k < columns; k += CHUNK, records += stride) {
        uint16_t padded[CHUNK] = {};
        const uint16_t *values = x + k;
        if (columns - k < CHUNK) {
            std::memcpy(padded, values, size_t(2 * (columns - k)));
            values = padded;
        }
        int8_t codes[CHUNK];
        for (int g = 0; g < INT8_GROUPS; g++) {
            int8_t *mine = codes + g * INT8_GROUP;
            records->scales[g] = group(values + g * INT8_GROUP, mine);
            int32_t sum = 0;
            for (int i = 0; i < INT8_GROUP; i++) sum += mine[i];
            records->starts[g] = -128 * sum;
        }
        if (!split) {
            std::memcpy(records->codes, codes, sizeof codes);
            continue;
        }
        for (int i = 0; i < CHUNK / 2; i++)
            records->codes[i] = codes[2 * i], records->codes[CHUNK / 2 + i] = codes[2 * i + 1];
    }
}

const Int8Kernels generic_int8 = int8_kernels<Int8Vector<Vector<4>>>(everywhere, nullptr);

}  // namespace wf
