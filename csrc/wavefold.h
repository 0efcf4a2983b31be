/* The C interface of the CPU kernels: plain types, no exceptions, an error code from everything that can fail.
 *
 * Source of the formats: OCP MX specification 1.0; the packing of the official checkpoint (wavefold/quant).
 * Matrices are row-major [rows, columns], as they lie on disk:
 *
 *   WF_FP4   two e2m1 codes a byte, the low nibble first; one e8m0 scale for 32 columns of a row
 *   WF_FP8   e4m3 codes; one e8m0 scale for 128 x 128
 *   WF_BF16, WF_FP32   values, no scales
 */
#ifndef WAVEFOLD_H
#define WAVEFOLD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define WF_API __declspec(dllexport)
#else
#define WF_API __attribute__((visibility("default")))
#endif

#define WF_ABI 3

enum { WF_FP4 = 0, WF_FP8 = 1, WF_BF16 = 2, WF_FP32 = 3 };

enum {
    WF_OK = 0,
    WF_ERROR_NULL = 1,    /* a pointer is null */
    WF_ERROR_SHAPE = 2,   /* a size is negative, zero or too large */
    WF_ERROR_BYTES = 3,   /* a buffer has another size than its shape needs */
    WF_ERROR_FORM = 4,    /* no such form */
    WF_ERROR_THREADS = 5, /* a thread count out of range, or threads that could not be started */
    WF_ERROR_MEMORY = 6,  /* no memory for scratch */
    WF_ERROR_ISA = 7      /* an instruction set that is unknown, or that this processor lacks */
};

typedef struct {
    int32_t form;
    int64_t rows, columns;
    const void *codes;
    int64_t codes_bytes;
    const void *scales; /* null for WF_BF16 and WF_FP32 */
    int64_t scales_bytes;
} wf_matrix;

typedef struct wf_pool wf_pool;

WF_API int wf_abi(void);

/* Instruction sets compiled in that this processor has, best first, separated by blanks; and the one in use. */
WF_API const char *wf_isas(void);
WF_API const char *wf_isa(void);
WF_API int wf_use_isa(const char *name);

/* `threads` threads, the calling one among them; the others are pinned to a core each and sleep between calls. */
WF_API int wf_pool_create(int32_t threads, wf_pool **pool);
WF_API void wf_pool_destroy(wf_pool *pool);

/* y = x W^T: x bfloat16 [x_rows, columns], y float32 or (y_bf16) bfloat16 [x_rows, rows], both contiguous.
 * With x_fp8, x goes through e4m3 first, one scale for 128 columns of a row, as the released code quantises the input of
 * a quantised weight. Each output element is summed in one order, whatever x_rows. */
WF_API int wf_linear(wf_pool *pool, const wf_matrix *weight, const uint16_t *x, int64_t x_rows, int32_t x_fp8, void *y,
                     int32_t y_bf16);

/* bfloat16 values [rows, columns] through e4m3 and back, one scale for `block` columns (the last may be shorter):
 * 2^ceil(log2(max(amax, 1e-4) / 448)). A value that is not finite makes its block NaN. */
WF_API int wf_fp8_sim(wf_pool *pool, const uint16_t *x, int64_t rows, int64_t columns, int64_t block, uint16_t *out);

/* Rows first .. first + count of a matrix in bfloat16 [count, columns]; values that bfloat16 does not hold are rounded
 * to nearest, ties to even. */
WF_API int wf_decode(wf_pool *pool, const wf_matrix *weight, int64_t first, int64_t count, uint16_t *out,
                     int64_t out_bytes);

/* Hyper-connections of `tokens` tokens with `streams` (at most 8) residual streams of `hidden` bfloat16 values:
 *
 *   split      mixes [tokens, 2 J + J J], base [2 J + J J], scale [3] -> pre, post [tokens, J], comb [tokens, J, J]
 *   collapse   x [tokens, J, hidden], pre -> sum_j pre_j x_j [tokens, hidden]
 *   expand     f [tokens, hidden], x, post, comb -> post_k f + sum_j comb[j, k] x_j [tokens, J, hidden]
 */
WF_API int wf_hc_split(wf_pool *pool, const float *mixes, const float *base, const float *scale, int64_t tokens,
                       int32_t streams, int32_t iters, float eps, float *pre, float *post, float *comb);
WF_API int wf_hc_collapse(wf_pool *pool, const uint16_t *x, const float *pre, int64_t tokens, int32_t streams,
                          int64_t hidden, uint16_t *out);
WF_API int wf_hc_expand(wf_pool *pool, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                        int64_t tokens, int32_t streams, int64_t hidden, uint16_t *out);

#ifdef __cplusplus
}
#endif
#endif
