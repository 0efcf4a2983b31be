// The C interface of training's products, of Muon's orthogonal matrices, and of weights that are seen rounded. Every size is
// checked here. Bits do not depend on the threads: a sum is made in the order of its depth.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "api.h"
#include "quantize.h"
#include "rowwise.h"
#include "training.h"

namespace wf {
namespace {

constexpr int64_t TASKS = 4;  // of a thread, at least, where rows allow
constexpr int64_t LEAST_ROWS = 48, ROUNDED_ROWS = 128;
constexpr int64_t MOST = 1 << 20;  // products, factors and matrices of a call

struct Piece {
    int64_t item, row, rows, column, columns;
};

int check(const wf_factor &factor, const wf_product &product) {
    if (!factor.a || !factor.b) return WF_ERROR_NULL;
    if (bad(factor.depth) || bad(factor.a_stride) || bad(factor.b_stride)) return WF_ERROR_SHAPE;
    if (factor.a_stride < (factor.a_turned ? product.rows : factor.depth)) return WF_ERROR_SHAPE;
    if (factor.b_stride < (factor.b_turned ? factor.depth : product.columns)) return WF_ERROR_SHAPE;
    if (!factor.a_turned && (factor.depth % 2 || factor.a_stride % 2)) return WF_ERROR_SHAPE;
    return factor.b_turned && (factor.depth % 2 || factor.b_stride % 2) ? WF_ERROR_SHAPE : WF_OK;
}

int check(const wf_product &product) {
    if (!product.factors || (!product.out && !product.wide)) return WF_ERROR_NULL;
    if (bad(product.num_factors, MOST) || bad(product.rows) || bad(product.columns)) return WF_ERROR_SHAPE;
    if (bad(product.out_stride) || product.out_stride < product.columns) return WF_ERROR_SHAPE;
    for (int64_t i = 0; i < product.num_factors; i++)
        if (const int error = check(product.factors[i], product)) return error;
    return WF_OK;
}

std::vector<Piece> tasks_of(const wf_product *products, int64_t count, int64_t threads) {
    std::vector<Piece> tasks;
    for (int64_t most = MULTIPLY_ROWS;; most /= 2) {
        tasks.clear();
        for (int64_t i = 0; i < count; i++)
            for (int64_t row = 0; row < products[i].rows; row += most)
                for (int64_t column = 0; column < products[i].columns; column += MULTIPLY_COLUMNS)
                    tasks.push_back({i, row, std::min(most, products[i].rows - row), column,
                                     std::min(MULTIPLY_COLUMNS, products[i].columns - column)});
        if (most <= LEAST_ROWS || int64_t(tasks.size()) >= TASKS * threads) return tasks;
    }
}

}  // namespace
}  // namespace wf

using namespace wf;

extern "C" {

int wf_multiply(wf_runtime *runtime, const wf_product *products, int64_t count) try {
    if (!runtime || !products) return WF_ERROR_NULL;
    if (bad(count, MOST)) return WF_ERROR_SHAPE;
    int64_t num_factors = 0;
    for (int64_t i = 0; i < count; i++) {
        if (const int error = check(products[i])) return error;
        num_factors += products[i].num_factors;
    }
    std::vector<Factor> factors;
    std::vector<Multiply> jobs;
    factors.reserve(size_t(num_factors)), jobs.reserve(size_t(count));
    for (int64_t i = 0; i < count; i++) {
        const wf_product &product = products[i];
        const Factor *first = factors.data() + factors.size();
        for (int64_t f = 0; f < product.num_factors; f++) {
            const wf_factor &factor = product.factors[f];
            factors.push_back({factor.a, factor.b, factor.a_stride, factor.b_stride, factor.depth, factor.a_turned != 0,
                               factor.b_turned != 0});
        }
        jobs.push_back({first, product.num_factors, product.rows, product.columns, product.out, product.wide,
                        product.out_stride, product.more != 0});
    }
    const std::vector<Piece> tasks = tasks_of(products, count, runtime->threads());
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    const int64_t each = (kernels.multiply_bytes() + 63) / 64 * 64;
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each(int64_t(tasks.size()), [&](int64_t number, int thread) {
        const Piece &task = tasks[size_t(number)];
        kernels.multiply(jobs[size_t(task.item)], task.row, task.rows, task.column, task.columns,
                         scratch + each * thread);
    });
    return WF_OK;
} catch (const std::bad_alloc &) {
    return WF_ERROR_MEMORY;
}

int wf_orthogonalize(wf_runtime *runtime, const wf_orthogonal *matrices, int64_t count, const float *coefficients,
                     int64_t steps, float mu) try {
    if (!runtime || !matrices || !coefficients) return WF_ERROR_NULL;
    if (bad(count, MOST) || bad(steps, MOST)) return WF_ERROR_SHAPE;
    const TrainingKernels &kernels = runtime->training();
    std::vector<Orthogonal> jobs;
    int64_t each = 0;
    for (int64_t i = 0; i < count; i++) {
        const wf_orthogonal &matrix = matrices[i];
        if (!matrix.values || (matrix.momentum && !matrix.grad)) return WF_ERROR_NULL;
        if (bad(matrix.rows, MOST) || bad(matrix.columns, MOST)) return WF_ERROR_SHAPE;
        jobs.push_back({matrix.values, matrix.momentum, matrix.grad, matrix.rows, matrix.columns, matrix.keep,
                        matrix.rate, mu, coefficients, steps});
        each = std::max(each, (kernels.orthogonal_bytes(jobs.back()) + 63) / 64 * 64);
    }
    std::stable_sort(jobs.begin(), jobs.end(), [](const Orthogonal &a, const Orthogonal &b) {
        return a.rows * a.columns > b.rows * b.columns;  // so that no thread begins a large one at the end
    });
    const wf::Call inside(*runtime);
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each(count, [&](int64_t i, int thread) { kernels.orthogonal(jobs[size_t(i)], scratch + each * thread); });
    return WF_OK;
} catch (const std::bad_alloc &) {
    return WF_ERROR_MEMORY;
}

int wf_hadamard(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, int32_t rounded, uint16_t *out) {
    if (!runtime || !x || !out) return WF_ERROR_NULL;
    if (bad(rows) || bad(columns, 1024) || (columns & (columns - 1))) return WF_ERROR_SHAPE;
    const wf::Call inside(*runtime);
    const auto turn = [&](int64_t row, int) {
        uint16_t *to = out + row * columns;
        std::memcpy(to, x + row * columns, size_t(2 * columns));
        hadamard(to, columns);
        if (rounded) fp4_sim(to, columns, 32);
    };
    runtime->each(rows, turn, ROUNDED_ROWS);
    return WF_OK;
}

int wf_round_weights(wf_runtime *runtime, wf_rounding *weights, int64_t count) try {
    if (!runtime || !weights) return WF_ERROR_NULL;
    if (bad(count, MOST)) return WF_ERROR_SHAPE;
    std::vector<Piece> tasks;
    for (int64_t i = 0; i < count; i++) {
        const wf_rounding &weight = weights[i];
        if (!weight.values || !weight.out) return WF_ERROR_NULL;
        if (bad(weight.rows) || bad(weight.columns)) return WF_ERROR_SHAPE;
        if (weight.form != WF_FP4 && weight.form != WF_FP8 && weight.form != WF_BF16) return WF_ERROR_FORM;
        for (int64_t row = 0; row < weight.rows; row += ROUNDED_ROWS)
            tasks.push_back({i, row, std::min(ROUNDED_ROWS, weight.rows - row), 0, weight.columns});
    }
    struct Scales {
        uint8_t low, high;
    };
    std::vector<Scales> scales(tasks.size());
    const wf::Call inside(*runtime);
    runtime->each(int64_t(tasks.size()), [&](int64_t number, int) {
        const Piece &task = tasks[size_t(number)];
        const wf_rounding &weight = weights[task.item];
        const int64_t at = task.row * weight.columns;
        Scales &found = scales[size_t(number)];
        round_weights(weight.form, weight.values + at, task.rows, weight.columns, weight.out + at, found.low,
                      found.high);
    });
    for (int64_t i = 0; i < count; i++) weights[i].least = 255, weights[i].largest = 0;
    for (size_t number = 0; number < tasks.size(); number++) {
        wf_rounding &weight = weights[tasks[number].item];
        weight.least = std::min<int32_t>(weight.least, scales[number].low);
        weight.largest = std::max<int32_t>(weight.largest, scales[number].high);
    }
    return WF_OK;
} catch (const std::bad_alloc &) {
    return WF_ERROR_MEMORY;
}

}  // extern "C"
