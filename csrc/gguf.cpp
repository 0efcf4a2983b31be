#include "gguf.h"

#include "gguf_grids.h"

namespace wf {
namespace {

uint8_t byte_of(uint64_t bytes, int i) { return uint8_t(bytes >> 8 * i); }

void q8_0(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int k = 0; k < 32; k++) out[k] = d * float(int8_t(b[2 + k]));
}

void q6_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 208);
    for (int k = 0; k < 256; k++) {
        const int half = k / 128, column = k % 128;
        const uint8_t low = b[64 * half + column % 64] >> 4 * (column / 64) & 15;
        const uint8_t high = b[128 + 32 * half + column % 32] >> 2 * (column / 32) & 3;
        out[k] = d * float(int8_t(b[192 + k / 16])) * float((low | high << 4) - 32);
    }
}

void q5_k(const uint8_t *b, float *out) {
    const float d = read_half(b), least = read_half(b + 2);
    uint64_t scales, minima;
    scales_and_minima(b + 4, scales, minima);
    for (int k = 0; k < 256; k++) {
        const int group = k / 32;
        const int low = b[48 + k / 64 * 32 + k % 32] >> 4 * (group % 2) & 15, high = b[16 + k % 32] >> group & 1;
        out[k] = d * float(byte_of(scales, group)) * float(low | high << 4) - least * float(byte_of(minima, group));
    }
}

void q4_k(const uint8_t *b, float *out) {
    const float d = read_half(b), least = read_half(b + 2);
    uint64_t scales, minima;
    scales_and_minima(b + 4, scales, minima);
    for (int k = 0; k < 256; k++) {
        const int group = k / 32, code = b[16 + k / 64 * 32 + k % 32] >> 4 * (group % 2) & 15;
        out[k] = d * float(byte_of(scales, group)) * float(code) - least * float(byte_of(minima, group));
    }
}

void q3_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 108);
    uint64_t scales[2];
    scales_of_q3(b + 96, scales[0], scales[1]);
    for (int k = 0; k < 256; k++) {
        const int low = b[32 + k / 128 * 32 + k % 32] >> 2 * (k / 32 % 4) & 3, high = b[k % 32] >> k / 32 & 1;
        const int scale = byte_of(scales[k / 128], k / 16 % 8) - 32;
        out[k] = d * float(scale) * float((low | high << 2) - 4);
    }
}

void q2_k(const uint8_t *b, float *out) {
    const float d = read_half(b + 80), least = read_half(b + 82);
    for (int k = 0; k < 256; k++) {
        const int code = b[16 + k / 128 * 32 + k % 32] >> 2 * (k / 32 % 4) & 3;
        out[k] = d * float(b[k / 16] & 15) * float(code) - least * float(b[k / 16] >> 4);
    }
}

void iq4_xs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    const uint64_t scales = scales_of_iq4(b);
    for (int k = 0; k < 256; k++) {
        const int code = b[8 + k / 32 * 16 + k % 16] >> 4 * (k / 16 % 2) & 15;
        out[k] = d * float(byte_of(scales, k / 32) - 32) * float(IQ4_VALUES[code]);
    }
}

float with_sign(uint32_t signs, int i, float value) { return signs >> i & 1 ? -value : value; }

void iq3_xxs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int k = 0; k < 256; k++) {
        const uint32_t word = read_32(b + 66 + k / 32 * 4);
        const float scale = d * (0.5f + float(word >> 28)) * 0.5f;
        const uint8_t value = IQ3_VALUES[IQ3_XXS_GRID[b[2 + k / 4]] >> 4 * (k % 4) & 7];
        out[k] = with_sign(SIGNS.of[word >> 7 * (k / 8 % 4) & 127], k % 8, scale * value);
    }
}

void iq2_xs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int k = 0; k < 256; k++) {
        const uint16_t word = read_16(b + 2 + k / 8 * 2);
        const float scale = d * (0.5f + float(b[66 + k / 32] >> 4 * (k / 16 % 2) & 15)) * 0.25f;
        const uint8_t value = IQ2_VALUES[IQ2_XS_GRID[word & 511] >> 2 * (k % 8) & 3];
        out[k] = with_sign(SIGNS.of[word >> 9], k % 8, scale * value);
    }
}

void iq2_xxs(const uint8_t *b, float *out) {
    const float d = read_half(b);
    for (int k = 0; k < 256; k++) {
        const uint8_t *group = b + 2 + k / 32 * 8;
        const uint32_t word = read_32(group + 4);
        const float scale = d * (0.5f + float(word >> 28)) * 0.25f;
        const uint8_t value = IQ2_VALUES[IQ2_XXS_GRID[group[k / 8 % 4]] >> 2 * (k % 8) & 3];
        out[k] = with_sign(SIGNS.of[word >> 7 * (k / 8 % 4) & 127], k % 8, scale * value);
    }
}

void mxfp4(const uint8_t *b, float *out) {
    const float scale = half_of_e8m0(*b);
    for (int k = 0; k < 32; k++) out[k] = scale * float(MXFP4_VALUES[b[1 + k % 16] >> 4 * (k / 16) & 15]);
}

void f16(const uint8_t *b, float *out) { *out = read_half(b); }

// In the order of the forms from WF_Q8_0 on.
constexpr void (*DECODE[])(const uint8_t *, float *) = {q8_0,   q6_k,    q5_k,   q4_k,    q3_k,  q2_k,
                                                        iq4_xs, iq3_xxs, iq2_xs, iq2_xxs, mxfp4, f16};
static_assert(sizeof DECODE / sizeof *DECODE == sizeof BLOCK_SIZES / sizeof *BLOCK_SIZES, "a decoder for each form");

}  // namespace

void decode_blocks(int form, const uint8_t *blocks, int64_t count, float *out) {
    const BlockSize size = block_size(form);
    for (int64_t i = 0; i < count; i++, blocks += size.bytes, out += size.values) DECODE[form - WF_Q8_0](blocks, out);
}

void decode_rows(const Matrix &m, int64_t first, int64_t end, uint16_t *out) {
    float values[256];
    const int64_t each = block_size(m.form).values;
    for (int64_t n = first; n < end; n++)
        for (int64_t k = 0; k < m.columns; k += each) {
            decode_columns(m, n, k, each, values);
            for (int64_t i = 0; i < each; i++) *out++ = float_to_bf16(values[i]);
        }
}

}  // namespace wf
