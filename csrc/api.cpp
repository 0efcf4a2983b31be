// The C interface: every size is checked here, before a kernel runs.
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <system_error>

#include "api.h"
#include "hyper.h"
#include "products.h"
#include "quantize.h"
#include "rowwise.h"

namespace {

using wf::Kernels;
using wf::Matrix;

const Kernels *const all_kernels[] = {
#if defined(WF_X86)
    &wf::avx512bf16_kernels,
    &wf::avx512_kernels,
    &wf::avx2_kernels,
#elif defined(WF_NEON)
    &wf::neon_kernels,
#endif
    &wf::generic_kernels,
};

const Kernels *best() {
    for (const Kernels *kernels : all_kernels)
        if (kernels->supported()) return kernels;
    return &wf::generic_kernels;
}

std::atomic<const Kernels *> chosen{nullptr};
std::atomic<bool> invariant{false};

constexpr int32_t MOST_THREADS = 1024;

}  // namespace

namespace wf {

const Kernels *kernels_in_use() {
    const Kernels *kernels = chosen.load();
    return kernels ? kernels : best();
}

bool batch_invariant() { return invariant; }

int check_matrix(const wf_matrix *given, Matrix &matrix) {
    if (!given || !given->codes) return WF_ERROR_NULL;
    if (given->form < WF_FP4 || given->form > WF_FP32) return WF_ERROR_FORM;
    if (given->rows <= 0 || given->columns <= 0 || given->rows > LARGEST || given->columns > LARGEST)
        return WF_ERROR_SHAPE;
    if (given->form == WF_FP4 && given->columns % 2) return WF_ERROR_SHAPE;
    matrix = {given->form, given->rows, given->columns, static_cast<const uint8_t *>(given->codes),
              static_cast<const uint8_t *>(given->scales)};
    if (given->codes_bytes != matrix.rows * matrix.row_bytes()) return WF_ERROR_BYTES;
    if (given->form > WF_FP8) return WF_OK;
    if (!given->scales) return WF_ERROR_NULL;
    const int64_t scale_rows = given->form == WF_FP4 ? matrix.rows : (matrix.rows + 127) / 128;
    return given->scales_bytes == scale_rows * matrix.row_scales() ? WF_OK : WF_ERROR_BYTES;
}

}  // namespace wf

namespace {

using wf::check_matrix;
using wf::kernels_in_use;
using wf::LARGEST;

// `one(job, token)` for each token, on whichever thread is free.
template <class Job>
int for_tokens(wf_pool *pool, const Job &job, int64_t count, void (*one)(const Job &, int64_t)) {
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    pool->pool.each(count, [&](int64_t token, int) { one(job, token); });
    return WF_OK;
}

bool bad_streams(int64_t tokens, int32_t streams, int64_t hidden) {
    return tokens <= 0 || tokens > LARGEST || streams < 1 || streams > wf::MOST_STREAMS || hidden <= 0 ||
           hidden > LARGEST;
}

}  // namespace

extern "C" {

int wf_abi(void) { return WF_ABI; }

const char *wf_isas(void) {
    static const struct Names {
        char text[256] = {};
        Names() {
            for (const Kernels *kernels : all_kernels) {
                if (!kernels->supported()) continue;
                if (text[0]) std::strcat(text, " ");
                std::strcat(text, kernels->name);
            }
        }
    } names;
    return names.text;
}

const char *wf_isa(void) { return kernels_in_use()->name; }

int wf_use_isa(const char *name) {
    if (!name) return WF_ERROR_NULL;
    for (const Kernels *kernels : all_kernels) {
        if (std::strcmp(kernels->name, name) == 0 && kernels->supported()) {
            chosen = kernels;
            return WF_OK;
        }
    }
    return WF_ERROR_ISA;
}

void wf_use_batch_invariant(int32_t on) { invariant = on != 0; }

int wf_pool_create(int32_t threads, wf_pool **pool) {
    if (!pool) return WF_ERROR_NULL;
    *pool = nullptr;
    if (threads < 1 || threads > MOST_THREADS) return WF_ERROR_THREADS;
    try {
        *pool = new wf_pool(threads);
    } catch (const std::system_error &) {
        return WF_ERROR_THREADS;
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
    return WF_OK;
}

void wf_pool_destroy(wf_pool *pool) { delete pool; }

int wf_linear(wf_pool *pool, const wf_matrix *weight, const uint16_t *x, int64_t x_rows, int32_t x_fp8, void *y,
              int32_t y_bf16) {
    if (!pool || !x || !y) return WF_ERROR_NULL;
    wf::Product product = {{}, x, x_rows, 0, x_fp8 != 0, nullptr, nullptr, 0};
    if (const int error = check_matrix(weight, product.weight)) return error;
    if (wf::bad(x_rows)) return WF_ERROR_SHAPE;
    product.stride = weight->columns, product.y_stride = weight->rows;
    if (y_bf16) product.rounded = static_cast<uint16_t *>(y);
    else product.wide = static_cast<float *>(y);
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    return wf::multiply(pool->pool, &product, 1) ? WF_OK : WF_ERROR_MEMORY;
}

int wf_fp8_sim(wf_pool *pool, const uint16_t *x, int64_t rows, int64_t columns, int64_t block, uint16_t *out) {
    if (!pool || !x || !out) return WF_ERROR_NULL;
    if (rows <= 0 || columns <= 0 || block <= 0 || rows > LARGEST || columns > LARGEST) return WF_ERROR_SHAPE;
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    pool->pool.each(rows, [&](int64_t i, int) { wf::fp8_sim(x + i * columns, columns, block, out + i * columns); });
    return WF_OK;
}

int wf_decode(wf_pool *pool, const wf_matrix *weight, int64_t first, int64_t count, uint16_t *out, int64_t out_bytes) {
    if (!pool || !out) return WF_ERROR_NULL;
    Matrix matrix;
    if (const int error = check_matrix(weight, matrix)) return error;
    if (first < 0 || count <= 0 || first > matrix.rows - count) return WF_ERROR_SHAPE;
    if (out_bytes != 2 * count * matrix.columns) return WF_ERROR_BYTES;
    const Kernels &kernels = *kernels_in_use();
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    pool->pool.each(
        count, [&](int64_t i, int) { kernels.decode(matrix, first + i, first + i + 1, out + i * matrix.columns); });
    return WF_OK;
}

int wf_hc_split(wf_pool *pool, const float *mixes, const float *base, const float *scale, int64_t tokens,
                int32_t streams, int32_t iters, float eps, float *pre, float *post, float *comb) {
    if (!pool || !mixes || !base || !scale || !pre || !post || !comb) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, 1) || iters < 1) return WF_ERROR_SHAPE;
    const wf::HcSplit job = {mixes, base, scale, streams, iters, eps, pre, post, comb};
    return for_tokens(pool, job, tokens, wf::hc_split);
}

int wf_hc_collapse(wf_pool *pool, const uint16_t *x, const float *pre, int64_t tokens, int32_t streams, int64_t hidden,
                   uint16_t *out) {
    if (!pool || !x || !pre || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    return for_tokens(pool, wf::HcCollapse{x, pre, streams, hidden, out}, tokens, wf::hc_collapse);
}

int wf_hc_expand(wf_pool *pool, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                 int64_t tokens, int32_t streams, int64_t hidden, uint16_t *out) {
    if (!pool || !f || !x || !post || !comb || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    return for_tokens(pool, wf::HcExpand{f, x, post, comb, streams, hidden, out}, tokens, wf::hc_expand);
}

int wf_hc_head(wf_pool *pool, const wf_matrix *fn, const float *base, const float *scale, const uint16_t *x,
               int64_t tokens, int32_t streams, int64_t hidden, float eps, float norm_eps, uint16_t *out) {
    if (!pool || !base || !scale || !x || !out) return WF_ERROR_NULL;
    if (bad_streams(tokens, streams, hidden)) return WF_ERROR_SHAPE;
    Matrix matrix;
    if (const int error = check_matrix(fn, matrix)) return error;
    const int64_t all = streams * hidden;
    if (matrix.rows != streams || matrix.columns != all) return WF_ERROR_SHAPE;
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    float *mixes = static_cast<float *>(pool->pool.scratch(8 * tokens * streams, 1));
    if (!mixes) return WF_ERROR_MEMORY;
    float *pre = mixes + tokens * streams;
    const wf::Product product = {matrix, x, tokens, all, false, mixes, nullptr, streams};
    if (!wf::multiply(pool->pool, &product, 1)) return WF_ERROR_MEMORY;
    pool->pool.each(tokens, [&](int64_t i, int) {
        const float factor = 1 / std::sqrt(wf::sum_squares(x + i * all, all) / float(all) + norm_eps);
        wf::hc_head(mixes + i * streams, factor, base, *scale, eps, streams, pre + i * streams);
        wf::hc_collapse({x, pre, streams, hidden, out}, i);
    });
    return WF_OK;
}

int wf_rms_norm(wf_pool *pool, const uint16_t *x, const uint16_t *weight, int64_t rows, int64_t columns, float eps,
                uint16_t *out) {
    if (!pool || !x || !weight || !out) return WF_ERROR_NULL;
    if (wf::bad(rows) || wf::bad(columns)) return WF_ERROR_SHAPE;
    std::lock_guard<std::mutex> lock(pool->pool.calls);
    pool->pool.each(rows,
                    [&](int64_t i, int) { wf::rms_norm(x + i * columns, weight, columns, eps, out + i * columns); });
    return WF_OK;
}

}  // extern "C"
