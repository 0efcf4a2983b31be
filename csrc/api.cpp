// The C interface: every size is checked here, before a kernel runs.
#include <cstring>

#include "api.h"
#include "blocks.h"
#include "forward.h"
#include "gguf.h"
#include "hyper.h"
#include "products.h"
#include "quantize.h"
#include "rowwise.h"

namespace wf {

int check_matrix(const wf_matrix *given, Matrix &matrix) {
    if (!given || !given->codes) return WF_ERROR_NULL;
    if (given->form < WF_FP4 || given->form > WF_F16) return WF_ERROR_FORM;
    if (given->rows <= 0 || given->columns <= 0 || given->rows > LARGEST || given->columns > LARGEST)
        return WF_ERROR_SHAPE;
    if (given->form == WF_FP4 && given->columns % 2) return WF_ERROR_SHAPE;
    if (is_blocks(given->form) && given->columns % block_size(given->form).values) return WF_ERROR_SHAPE;
    matrix = {given->form, given->rows, given->columns, static_cast<const uint8_t *>(given->codes),
              static_cast<const uint8_t *>(given->scales)};
    int64_t bytes = 0;
    if (__builtin_mul_overflow(matrix.rows, matrix.row_bytes(), &bytes) || given->codes_bytes != bytes)
        return WF_ERROR_BYTES;
    if (given->form > WF_FP8) return WF_OK;
    if (!given->scales) return WF_ERROR_NULL;
    const int64_t scale_rows = given->form == WF_FP4 ? matrix.rows : (matrix.rows + 127) / 128;
    return given->scales_bytes == scale_rows * matrix.row_scales() ? WF_OK : WF_ERROR_BYTES;
}

}  // namespace wf

namespace {

using wf::check_matrix;
using wf::LARGEST;
using wf::Matrix;

// `one(job, token)` for each token, on whichever thread is free.
template <class Job>
int for_tokens(wf_runtime *runtime, const Job &job, int64_t count, void (*one)(const Job &, int64_t)) {
    const wf::Call inside(*runtime);
    runtime->each(count, [&](int64_t token, int) { one(job, token); });
    return WF_OK;
}

bool bad_streams(int64_t tokens, int32_t streams, int64_t hidden) {
    return tokens <= 0 || tokens > LARGEST || streams < 1 || streams > wf::MOST_STREAMS || hidden <= 0 ||
           hidden > LARGEST;
}

}  // namespace

extern "C" {

int wf_abi(void) { return WF_ABI; }

int wf_linear(wf_runtime *runtime, const wf_matrix *weight, const uint16_t *x, int64_t x_rows, int32_t x_fp8, void *y,
              int32_t y_bf16) {
    if (!runtime || !x || !y) return WF_ERROR_NULL;
    wf::Product product = {{}, x, x_rows, 0, x_fp8 != 0, nullptr, nullptr, 0};
    if (const int error = check_matrix(weight, product.weight)) return error;
    if (wf::bad(x_rows)) return WF_ERROR_SHAPE;
    product.stride = weight->columns, product.y_stride = weight->rows;
    if (y_bf16) product.rounded = static_cast<uint16_t *>(y);
    else product.wide = static_cast<float *>(y);
    const wf::Call inside(*runtime);
    return wf::multiply(*runtime, &product, 1) ? WF_OK : WF_ERROR_MEMORY;
}

int wf_fp8_sim(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, int64_t block, uint16_t *out) {
    if (!runtime || !x || !out) return WF_ERROR_NULL;
    if (rows <= 0 || columns <= 0 || block <= 0 || rows > LARGEST || columns > LARGEST) return WF_ERROR_SHAPE;
    const wf::Call inside(*runtime);
    runtime->each(rows, [&](int64_t i, int) { wf::fp8_sim(x + i * columns, columns, block, out + i * columns); });
    return WF_OK;
}

int wf_decode(wf_runtime *runtime, const wf_matrix *weight, int64_t first, int64_t count, uint16_t *out,
              int64_t out_bytes) {
    if (!runtime || !out) return WF_ERROR_NULL;
    Matrix matrix;
    if (const int error = check_matrix(weight, matrix)) return error;
    if (first < 0 || count <= 0 || first > matrix.rows - count) return WF_ERROR_SHAPE;
    if (out_bytes != 2 * count * matrix.columns) return WF_ERROR_BYTES;
    const wf::Kernels &kernels = runtime->kernels;
    const wf::Call inside(*runtime);
    runtime->each(count, [&](int64_t i, int) {
        uint16_t *to = out + i * matrix.columns;
        if (wf::is_blocks(matrix.form))
            wf::decode_rows(runtime->block_kernels().many, matrix, first + i, first + i + 1, to);
        else kernels.decode(matrix, first + i, first + i + 1, to);
    });
    return WF_OK;
}

int wf_hc_split(wf_runtime *runtime, const float *mixes, const float *base, const float *scale, int64_t tokens,
                int32_t streams, int32_t iters, float eps, float *pre, float *post, float *comb) {
    if (!runtime || !mixes || !base || !scale || !pre || !post || !comb) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, 1) || iters < 1) return WF_ERROR_SHAPE;
    const wf::HcSplit job = {mixes, base, scale, streams, iters, eps, pre, post, comb};
    return for_tokens(runtime, job, tokens, wf::hc_split);
}

int wf_hc_collapse(wf_runtime *runtime, const uint16_t *x, const float *pre, int64_t tokens, int32_t streams,
                   int64_t hidden, uint16_t *out) {
    if (!runtime || !x || !pre || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    return for_tokens(runtime, wf::HcCollapse{x, pre, streams, hidden, out}, tokens, wf::hc_collapse);
}

int wf_hc_expand(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                 int64_t tokens, int32_t streams, int64_t hidden, uint16_t *out) {
    if (!runtime || !f || !x || !post || !comb || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    return for_tokens(runtime, wf::HcExpand{f, x, post, comb, streams, hidden, out}, tokens, wf::hc_expand);
}

int wf_hc_head(wf_runtime *runtime, const wf_matrix *fn, const float *base, const float *scale, const uint16_t *x,
               int64_t tokens, int32_t streams, int64_t hidden, float eps, float norm_eps, uint16_t *out) {
    if (!runtime || !base || !scale || !x || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    Matrix matrix;
    if (const int error = check_matrix(fn, matrix)) return error;
    if (matrix.rows != streams || matrix.columns != streams * hidden) return WF_ERROR_SHAPE;
    const wf::Call inside(*runtime);
    float *mixes = static_cast<float *>(runtime->scratch(8 * tokens * streams, 1));
    if (!mixes) return WF_ERROR_MEMORY;
    const bool done =
        wf::collapse(*runtime, {matrix, base, scale, eps, norm_eps}, x, tokens, streams, hidden, mixes, out);
    return done ? WF_OK : WF_ERROR_MEMORY;
}

int wf_rms_norm(wf_runtime *runtime, const uint16_t *x, const uint16_t *weight, int64_t rows, int64_t columns,
                float eps, uint16_t *out) {
    if (!runtime || !x || !weight || !out) return WF_ERROR_NULL;
    if (wf::bad(rows) || wf::bad(columns)) return WF_ERROR_SHAPE;
    const wf::Call inside(*runtime);
    runtime->each(rows,
                  [&](int64_t i, int) { wf::rms_norm(x + i * columns, weight, columns, eps, out + i * columns); });
    return WF_OK;
}

}  // extern "C"
