// What an instruction set provides: kernels over 128 columns at a time. One table for each; chosen at run time.
// GGUF's forms have kernels of their own (blocks.h): value_at and scale_at are not for them.
#pragma once

#include <cstdint>

#include "wavefold.h"

// Everything here is inlined for good: the same function compiled for two instruction sets must not be merged into one.
#define WF_INLINE inline __attribute__((always_inline))

// A function of plain loops, compiled for several widths of x86-64 and chosen when the library is loaded. None reorders or
// contracts float operations: the results are the same. (Sanitizers run before such choices can be made.)
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WF_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WF_CLONES
#endif

namespace wf {

constexpr int CHUNK = 128;   // columns that a kernel takes at a time; x is padded with zeros to a multiple
constexpr int MAX_ROWS = 8;  // rows of x that any kernel takes together

// Blocks of GGUF's forms, from WF_Q8_0 on (gguf.h).
struct BlockSize {
    int32_t values, bytes;
};
constexpr BlockSize BLOCK_SIZES[] = {{32, 34},   {256, 210}, {256, 176}, {256, 144}, {256, 110}, {256, 84},
                                     {256, 136}, {256, 98},  {256, 74},  {256, 66},  {32, 17},   {1, 2}};
constexpr bool is_blocks(int form) { return form >= WF_Q8_0; }
// Released arithmetic rounds the other operand of these forms to FP8.
constexpr bool rounds_x(int form) { return form <= WF_FP8 || form == WF_MXFP4; }
constexpr BlockSize block_size(int form) { return BLOCK_SIZES[form - WF_Q8_0]; }

// A matrix whose sizes have been checked.
struct Matrix {
    int form;
    int64_t rows, columns;
    const uint8_t *codes, *scales;

    WF_INLINE int64_t chunks() const { return (columns + CHUNK - 1) / CHUNK; }
    WF_INLINE int64_t row_bytes() const {
        if (is_blocks(form)) return columns / block_size(form).values * block_size(form).bytes;
        return form == WF_FP4 ? columns / 2 : form == WF_FP8 ? columns : form == WF_BF16 ? 2 * columns : 4 * columns;
    }
    WF_INLINE int64_t row_scales() const { return form == WF_FP4 ? (columns + 31) / 32 : (columns + 127) / 128; }
    WF_INLINE const uint8_t *scales_of(int64_t row) const {
        return form == WF_FP4 ? scales + row * row_scales() : scales + row / 128 * row_scales();
    }
};

// How memory is asked for weights before their use.
struct Feed {
    int hint, ahead;  // WF_HINT_..., bytes
};

// Asks for a line of what will be read, at an address that may lie outside of what is allocated.
WF_INLINE void ask(const Feed &feed, uintptr_t at) {
    switch (feed.hint) {  // (the kind of a hint is part of the instruction)
        case WF_HINT_STREAM: __builtin_prefetch(reinterpret_cast<const void *>(at), 0, 0); break;
        case WF_HINT_L1: __builtin_prefetch(reinterpret_cast<const void *>(at), 0, 3); break;
        case WF_HINT_L2: __builtin_prefetch(reinterpret_cast<const void *>(at), 0, 2); break;
        case WF_HINT_L3: __builtin_prefetch(reinterpret_cast<const void *>(at), 0, 1); break;
        default: break;
    }
}

struct AttentionKernels;
struct TrainingKernels;
struct Int8Kernels;
struct BlockKernels;

struct Kernels {
    const char *name;
    bool (*supported)();
    int together;  // rows of x that meet a weight row while it is in registers: at most MAX_ROWS
    // x bfloat16 [x_rows, columns], at most `together` rows -> the same in the order that `rows` wants, padded to chunks:
    // the rows' first chunks, then their second ones, and so on. (Rows that lie a power of two apart would share few
    // places of a cache.)
    void (*arrange)(const Matrix &, const uint16_t *x, int64_t x_rows, void *arranged);
    int64_t (*arranged_bytes)(const Matrix &, int64_t x_rows);
    // y[r * stride + n] for n in first .. end and the rows of x that were arranged together. A row's bits do not depend on
    // the rows beside it.
    void (*rows)(const Matrix &, const Feed &, const void *arranged, int x_rows, int64_t first, int64_t end, float *y,
                 int64_t stride);
    // Rows first .. end as bfloat16 [end - first, columns].
    void (*decode)(const Matrix &, int64_t first, int64_t end, uint16_t *out);
    const AttentionKernels *attention;  // null: the generic ones
    const TrainingKernels *training;
    const Kernels *in_float;  // where these multiply bfloat16: those that multiply float32 instead; else null
    const Int8Kernels *int8;
    const BlockKernels *blocks;
};

extern const Kernels generic_kernels;
#if defined(WF_X86)
extern const Kernels avx512bf16_kernels, avx512_kernels, avx2_kernels;
bool has_avx512bf16(), has_avx512(), has_avx2();
#elif defined(WF_NEON)
extern const Kernels neonbf16_kernels, neon_kernels;
bool has_neon_bf16(), has_neon();
#endif

// Scalar meanings, which every kernel is held to.
WF_INLINE float bits_to_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

WF_INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

WF_INLINE float bf16_to_float(uint16_t value) { return bits_to_float(uint32_t(value) << 16); }

// Nearest, ties to even; a NaN stays one.
WF_INLINE uint16_t float_to_bf16(float value) {
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// 2^(byte - 127): byte 0 is subnormal, 255 is NaN.
WF_INLINE float e8m0_to_float(uint8_t byte) {
    return bits_to_float(uint32_t(byte) << 23 | (byte == 0 || byte == 255 ? 1u << 22 : 0));
}

// Subnormal values, infinities and NaN as they are.
WF_INLINE float half_to_float(uint16_t value) {
    const uint32_t sign = uint32_t(value & 0x8000) << 16, magnitude = value & 0x7FFF;
    if (magnitude >= 0x7C00) return bits_to_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
    if (magnitude < 0x400) return bits_to_float(sign | float_to_bits(float(magnitude) * 0x1p-24f));
    return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
}

WF_INLINE float e2m1_to_float(uint8_t code) {
    static const float magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const float magnitude = magnitudes[code & 7];
    return code & 8 ? -magnitude : magnitude;
}

WF_INLINE float e4m3_to_float(uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    if ((code & 127) == 127) return bits_to_float(uint32_t(code >> 7) << 31 | 0x7FC00000);
    const float magnitude =
        exponent == 0 ? mantissa * 0x1p-9f : bits_to_float(uint32_t(exponent + 120) << 23 | uint32_t(mantissa) << 20);
    return code & 128 ? -magnitude : magnitude;
}

WF_INLINE float value_at(const Matrix &m, int64_t row, int64_t column) {
    const uint8_t *codes = m.codes + row * m.row_bytes();
    switch (m.form) {
        case WF_FP4: {
            const uint8_t byte = codes[column / 2];
            return e2m1_to_float(column & 1 ? byte >> 4 : byte & 15);
        }
        case WF_FP8: return e4m3_to_float(codes[column]);
        case WF_BF16: {
            uint16_t value;
            __builtin_memcpy(&value, codes + 2 * column, 2);
            return bf16_to_float(value);
        }
        default: {
            float value;
            __builtin_memcpy(&value, codes + 4 * column, 4);
            return value;
        }
    }
}

WF_INLINE float scale_at(const Matrix &m, int64_t row, int64_t column) {
    if (m.form > WF_FP8) return 1;
    return e8m0_to_float(m.scales_of(row)[column / (m.form == WF_FP4 ? 32 : 128)]);
}

}  // namespace wf
