// Products of few rows of x with GGUF's blocks. Codes are integers and stay so: a row of x becomes integers, too, 256 columns
// under one scale, in one to three digits of 8 bits, and a block's dot products are exact until its scales come in.
//
//   bfloat16   digits of 1/256 each, under a power of two above the largest column: two where what a third would hold is little (a
//              norm of n 2^-22 of the powers' mean for n columns: four times what float32's sums round away), else three, which
//              are exact as far as 2^-23 of the largest
//   int8       one digit, to the nearest of amax / 127, ties to even: the arithmetic of llama.cpp's Q8_K for every form
//
// An infinity or NaN among 256 columns makes their scale NaN. WF_F16 has no blocks: values and x meet in float32.
#pragma once

#include "int8.h"

namespace wf {

constexpr int UNIT = 256;       // columns under one scale of x
constexpr int MOST_DIGITS = 3;  // of a column of x

// Many rows of x; in int8, forms of UNIT columns alone (block_gemm.h).
struct BlockUnit;
struct ManyRows {
    // A row of x as records, the next unit's `stride` records on.
    void (*record)(const Matrix &, const uint16_t *x, void *records, int64_t stride);
    int64_t (*scratch_bytes)();
    void (*multiply)(const Int8Task &, uint8_t *scratch);
    // Columns first .. first + columns of a row, apart; the last unit may end early. Not for WF_F16.
    void (*take_apart)(const Matrix &, int64_t row, int64_t first, int64_t columns, BlockUnit *units);
};

// 256 columns of a row: values are scale * code - minimum, each step rounded, with a scale and a minimum for 16 columns.
struct alignas(64) BlockUnit {
    int8_t codes[UNIT];
    float scales[UNIT / 16], minima[UNIT / 16];
};

struct BlockKernels {
    bool (*supported)();
    const BlockKernels *otherwise;  // for a processor that lacks these
    int together;                   // rows of x that `rows` takes at most; a processor's Kernels may take more
    // As those of Kernels; `int8`: one digit.
    int64_t (*arranged_bytes)(const Matrix &, int64_t x_rows);
    void (*arrange)(const Matrix &, const uint16_t *x, int64_t x_rows, bool int8, void *arranged);
    void (*rows)(const Matrix &, const Feed &, const void *arranged, int x_rows, int64_t first, int64_t end, float *y,
                 int64_t stride);
    const ManyRows &many;
};

// 256 columns of a row of x in int8: words of four columns, in a form's order.
struct alignas(64) BlockRecord {
    int8_t codes[UNIT];
    int32_t starts[16];  // what codes that are too high add to the sum of each scale, negated
    uint32_t sums[8];    // of the columns under each minimum, two in a word
    float scale;
};

// 256 columns of x, or the last of a row beside zeros, as integers times a scale.
struct FixedUnit {
    int32_t codes[UNIT];
    float scale;
    // With two digits, codes are multiples of 256; with one, at most 127.
    FixedUnit(const uint16_t *x, int64_t columns, int digits);
};
// The digits, two or three, that a row of bfloat16 needs.
int digits_of(const uint16_t *x, int64_t columns);

inline int64_t units_of(const Matrix &m) { return (m.columns + UNIT - 1) / UNIT; }

extern const BlockKernels generic_blocks;
extern const ManyRows generic_many;
#if defined(WF_X86)
extern const BlockKernels avx512vnni_blocks, avx2_blocks;
extern const ManyRows avx512vnni_many, avx2_many;
#elif defined(WF_NEON)
extern const BlockKernels neon_blocks;
extern const ManyRows neon_many;
#endif

}  // namespace wf
