// Products of FP4, FP8, MXFP4 and Q8_0 matrices with activations in int8 (docs/arithmetic.md, "Activations in int8").
//
//   x     32 columns share a float scale amax / 127; a code is x / scale to the nearest, ties to even. A group whose amax is
//         below 2^-100 counts as zero; one with a value that is not finite has a scale of NaN
//   FP4   twice an e2m1 value is an integer of at most 12
//   FP8   128 columns of a row share the largest exponent `top` among their codes (at least 4): a code is the integer
//         nearest to its value * 2^(13 - top), ties to even, at most 120. With a NaN among them the scale is NaN
//   MXFP4, Q8_0   codes are integers: twice an e2m1 value, or as they are. A group's dot product is rounded once more, by the
//         block's scale, before it meets that of x
//
// The dot product of a group is an exact integer. Float32 takes it from there, a rounding for each step, in order:
//
//   part = sum over the four groups of 128 columns of x_scale * dot      y = sum over the columns of part * scale
//
// where scale is the largest weight scale of the 128 columns, and dot is in its units: a power of two is an exact factor.
// So y has the same bits whatever thread or other rows of x take part, and on every instruction set but plain C++, which has no
// multiply-add of one rounding.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace wf {

constexpr int INT8_GROUP = 32;                   // columns under one scale of x
constexpr int INT8_GROUPS = CHUNK / INT8_GROUP;  // in a chunk
constexpr int64_t INT8_TILE = 64;                // rows of a weight that become int8 together
constexpr int64_t INT8_ROWS = 384;               // rows of x that they serve: a multiple of every INT8_TILE_ROWS
constexpr int64_t INT8_RECORD = CHUNK + 8 * INT8_GROUPS;

// A chunk of a row of x. With `split`, the codes are those of the even columns, then of the odd ones, as nibbles come apart.
struct Int8Record {
    int8_t codes[CHUNK];
    float scales[INT8_GROUPS];
    int32_t starts[INT8_GROUPS];  // -128 times the sum of a group's codes
};
static_assert(sizeof(Int8Record) == INT8_RECORD, "records stand side by side");

// Chunk c of a row goes to records[c * stride].
void int8_row(const uint16_t *x, int64_t columns, bool split, Int8Record *records, int64_t stride);

// magnitudes[code] for `top` in 4 .. 15: what a code is in int8. NaN is zero, as its scale is NaN.
const uint8_t *int8_of_e4m3(int top);
// The same for tops of at least 8: below[8 * top + 7 - code], zero from 63 on.
const uint8_t *int8_below_e4m3();

// y of `count` rows of the weight from `first` (at most INT8_TILE) and x_rows rows of x (at most INT8_ROWS).
struct Int8Task {
    const Matrix *weight;
    const void *x;  // records [chunks][stride], the first x_rows of each
    int64_t x_rows, stride;
    int64_t first, count;
    const uint8_t *next;  // rows of the weight that a thread reads after these, or null
    float *wide;          // one of the two is null: y, rows `y_stride` apart
    uint16_t *rounded;
    int64_t y_stride;
};

// The sums of row r of x, in float32, to where they belong.
WF_INLINE void store_sums(const Int8Task &task, int64_t r, const float *sums) {
    if (task.wide) {
        __builtin_memcpy(task.wide + r * task.y_stride, sums, size_t(4 * task.count));
        return;
    }
    uint16_t *to = task.rounded + r * task.y_stride;
    for (int64_t n = 0; n < task.count; n++) to[n] = float_to_bf16(sums[n]);
}

struct Int8Kernels {
    bool (*supported)();
    const Int8Kernels *otherwise;  // for a processor that lacks these
    int64_t (*bytes)();            // of scratch, 64-byte aligned
    void (*multiply)(const Int8Task &, uint8_t *scratch);
};

extern const Int8Kernels generic_int8;
inline bool has_int8_form(int form) { return form == WF_FP4 || form == WF_FP8 || form == WF_Q8_0 || form == WF_MXFP4; }
#if defined(WF_X86)
extern const Int8Kernels avx512vnni_int8, avx2_int8;
bool has_avx512vnni();
#elif defined(WF_NEON)
extern const Int8Kernels neon_i8mm_int8, neon_dot_int8, neon_int8;
bool has_neon_i8mm(), has_neon_dot();
#endif

}  // namespace wf
