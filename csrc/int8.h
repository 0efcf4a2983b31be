// Products of FP4 and FP8 matrices with activations in int8 (docs/arithmetic.md, "Activations in int8").
//
//   x     32 columns share a float scale amax / 127; a code is x / scale to the nearest, ties to even. A group whose amax is
//         below 2^-100 counts as zero; one with a value that is not finite has a scale of NaN
//   FP4   twice an e2m1 value is an integer of at most 12
//   FP8   128 columns of a row share the largest exponent `top` among their codes (at least 4): a code is the integer
//         nearest to its value * 2^(13 - top), halves away from zero, at most 120. With a NaN among them the scale is NaN
//
// Sums over 32 columns are exact integers; float32 takes them from there.
#pragma once

#include "kernels.h"

namespace wf {

constexpr int INT8_GROUP = 32;          // columns under one scale of x
constexpr int64_t INT8_TILE = 64;       // rows of a weight decoded together
constexpr int64_t INT8_ROWS = 384;      // rows of x that a decoded tile serves: a multiple of every INT8_TILE_ROWS
constexpr int64_t INT8_COLUMNS = 1024;  // decoded at a time
constexpr int INT8_FEW = 8;             // rows of x that meet a weight row while it is in registers

// The codes and the scale of at most 32 columns; the codes behind them are zero.
float int8_group(const uint16_t *x, int64_t count, int8_t (&codes)[INT8_GROUP]);

// A row of x for `gemm`: codes [width], a scale for each group, and -128 times each group's sum of codes; width is columns
// up to a multiple of 128. With `split`, 128 columns are their even ones, then their odd ones, as nibbles come apart.
inline int64_t int8_width(int64_t columns) { return (columns + CHUNK - 1) / CHUNK * CHUNK; }
inline int64_t int8_row_bytes(int64_t columns) { return (int8_width(columns) * 5 / 4 + 63) / 64 * 64; }
void int8_row(const uint16_t *x, int64_t columns, bool split, uint8_t *row);

// magnitudes[code] for `top` in 4 .. 15: what a code is in int8. NaN is zero, as its scale is NaN.
const uint8_t *int8_of_e4m3(int top);

// codes[code] + offset for e2m1 codes, their value times 2^(1 + shift), for a shift of 0 .. 3.
const uint8_t *int8_of_e2m1(int shift, int offset);

struct Int8Task {
    const Matrix *weight;
    const uint8_t *x;  // [x_rows], int8_row each
    int64_t x_rows;
    int64_t first, count;  // rows of the weight: at most INT8_TILE
    float *wide;           // one of the two is null: y, rows `y_stride` apart
    uint16_t *rounded;
    int64_t y_stride;
};

struct Int8Kernels {
    bool (*supported)();
    const Int8Kernels *otherwise;  // for a processor that lacks these
    // Few rows of x, FP4: x bfloat16 [columns] -> the order that `rows` wants; y[r * stride + n] for n in first .. end.
    int64_t (*arranged_bytes)(const Matrix &);
    void (*arrange)(const Matrix &, const uint16_t *x, void *arranged);
    void (*rows)(const Matrix &, const uint8_t *arranged, int x_rows, int64_t first, int64_t end, float *y,
                 int64_t stride);
    // Many, FP4 or FP8.
    int64_t (*gemm_bytes)();
    void (*gemm)(const Int8Task &, uint8_t *scratch);
};

extern const Int8Kernels generic_int8;
#if defined(WF_X86)
extern const Int8Kernels avx512vnni_int8, avx2_int8;
bool has_avx512vnni();
#elif defined(WF_NEON)
extern const Int8Kernels neon_int8;
#endif

}  // namespace wf
