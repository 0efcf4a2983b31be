// Cached rows where they lie: records in paged storage, in a ring, or plain values in a tensor.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace wf {

constexpr int KV_BLOCK = 64;     // codes of a KV record under one scale
constexpr int INDEX_BLOCK = 32;  // codes of an index record under one scale

WF_INLINE int64_t padded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// A row source whose sizes have been checked: row n is row n % in_block of the block that starts table[n / in_block]
// strides behind the first or, without a table, row n % num_rows.
struct Rows {
    int form;  // WF_ROWS_BF16, WF_ROWS_KV, WF_ROWS_INDEX
    int64_t dim, rope_dim, row_bytes, num_rows;
    uint8_t *base;
    const int64_t *table;
    int64_t in_block, stride;  // bytes from one block to the next

    WF_INLINE uint8_t *at(int64_t n) const {
        if (!table) return base + n % num_rows * row_bytes;
        return base + table[n / in_block] * stride + n % in_block * row_bytes;
    }
};

inline int64_t record_bytes(int form, int64_t dim, int64_t rope_dim) {
    const int64_t nope = dim - rope_dim;
    if (form == WF_ROWS_KV) return padded(nope + 2 * rope_dim + (nope + KV_BLOCK - 1) / KV_BLOCK, 8);
    return form == WF_ROWS_INDEX ? dim / 2 + (dim + INDEX_BLOCK - 1) / INDEX_BLOCK : 2 * dim;
}

// Row n as bfloat16 [dim].
template <class S>
WF_INLINE void decode_row(const Rows &rows, int64_t n, uint16_t *out) {
    const uint8_t *row = rows.at(n);
    if (rows.form == WF_ROWS_BF16) {
        __builtin_memcpy(out, row, size_t(2 * rows.dim));
        return;
    }
    if (rows.form == WF_ROWS_KV) {
        const int64_t nope = rows.dim - rows.rope_dim;
        const uint8_t *scales = row + nope + 2 * rows.rope_dim;
        int64_t k = 0;
        for (; k + KV_BLOCK <= nope; k += KV_BLOCK) S::fp8(row + k, KV_BLOCK, scales[k / KV_BLOCK], out + k);
        for (; k < nope; k++) out[k] = float_to_bf16(e4m3_to_float(row[k]) * e8m0_to_float(scales[k / KV_BLOCK]));
        __builtin_memcpy(out + nope, row + nope, size_t(2 * rows.rope_dim));
        return;
    }
    const uint8_t *scales = row + rows.dim / 2;
    int64_t k = 0;
    for (; k + INDEX_BLOCK <= rows.dim; k += INDEX_BLOCK) S::fp4(row + k / 2, scales[k / INDEX_BLOCK], out + k);
    for (; k < rows.dim; k++)
        out[k] = float_to_bf16(e2m1_to_float(uint8_t(row[k / 2] >> 4 * (k & 1) & 15)) *
                               e8m0_to_float(scales[k / INDEX_BLOCK]));
}

}  // namespace wf
