#include "products.h"

#include <cstring>

#include "api.h"
#include "attention.h"
#include "products_int8.h"
#include "quantize.h"
#include "rowwise.h"

namespace wf {
namespace {

constexpr int64_t MOST = 256;  // products of one pass
constexpr int64_t LINE = 64;
constexpr int64_t TILE = 512;      // rows of sums kept before they are rounded
constexpr int64_t PART = 1 << 19;  // bytes of weights that a thread takes at a time

bool same_x(const Product &a, const Product &b) {
    return a.x == b.x && a.rows == b.rows && a.stride == b.stride && a.x_fp8 == b.x_fp8 &&
           a.weight.columns == b.weight.columns;
}

// The rows of x that a product multiplies, in `copy` if they had to be changed.
const uint16_t *plain_rows(const Product &p, uint16_t *copy) {
    const int64_t columns = p.weight.columns;
    if (!p.x_fp8 && p.stride == columns) return p.x;
    for (int64_t r = 0; r < p.rows; r++) {
        if (p.x_fp8) fp8_sim(p.x + r * p.stride, columns, 128, copy + r * columns);
        else std::memcpy(copy + r * columns, p.x + r * p.stride, size_t(2 * columns));
    }
    return copy;
}

bool few(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    const Kernels &kernels = runtime.kernels;
    // arranged[i]: where product i finds its x, arranged once for all that share it
    int64_t arranged[MOST], owners[MOST], owned = 0, used = 0, plain = 0, bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        const Product &p = products[i];
        bytes += p.weight.rows * p.weight.row_bytes() * ((p.rows + MAX_ROWS - 1) / MAX_ROWS);
        int64_t other = 0;
        while (other < i && !(same_x(p, products[other]) && p.weight.form == products[other].weight.form)) other++;
        if (other < i) {
            arranged[i] = arranged[other];
            continue;
        }
        owners[owned++] = i;
        arranged[i] = used;
        used += padded(kernels.arranged_bytes(p.weight, p.rows), LINE);
        const int64_t copy = padded(2 * p.rows * p.weight.columns, LINE);
        plain = copy > plain ? copy : plain;
    }
    const int64_t threads = runtime.threads();
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(used + threads * plain + threads * MAX_ROWS * TILE * 4));
    if (!scratch) return false;
    uint8_t *const plains = scratch + used;
    float *const sums = reinterpret_cast<float *>(plains + threads * plain);
    const auto arrange = [&](int64_t item, int thread) {
        const Product &p = products[owners[item]];
        const uint16_t *x = plain_rows(p, reinterpret_cast<uint16_t *>(plains + thread * plain));
        kernels.arrange(p.weight, x, p.rows, scratch + arranged[owners[item]]);
    };
    runtime.each(owned, arrange);
    next.tell(runtime);
    const int64_t most = 16 * threads, parts = bytes / PART < threads ? threads
                                               : bytes / PART < most  ? bytes / PART
                                                                      : most;
    runtime.each(parts, [&](int64_t part, int thread) {
        const int64_t begin = bytes * part / parts, stop = bytes * (part + 1) / parts;
        float *tile = sums + thread * MAX_ROWS * TILE;
        int64_t passed = 0;
        for (int64_t i = 0; i < count && passed < stop; i++) {
            const Product &p = products[i];
            const int64_t one = p.weight.row_bytes() * ((p.rows + MAX_ROWS - 1) / MAX_ROWS), rows = p.weight.rows;
            // rows whose first byte lies in begin .. stop
            int64_t first = begin <= passed ? 0 : (begin - passed + one - 1) / one;
            int64_t end = stop <= passed ? 0 : (stop - passed + one - 1) / one;
            passed += rows * one;
            first = first < rows ? first : rows, end = end < rows ? end : rows;
            const int64_t row_bytes = kernels.arranged_bytes(p.weight, 1);
            for (int64_t n = first; n < end; n += TILE) {
                const int64_t last = n + TILE < end ? n + TILE : end;
                for (int64_t r = 0; r < p.rows; r += MAX_ROWS) {
                    const int together = int(p.rows - r < MAX_ROWS ? p.rows - r : MAX_ROWS);
                    const uint8_t *x = scratch + arranged[i] + r * row_bytes;
                    if (p.wide) {
                        kernels.rows(p.weight, x, together, n, last, p.wide + r * p.y_stride, p.y_stride);
                        continue;
                    }
                    kernels.rows(p.weight, x, together, n, last, tile - n, TILE);
                    for (int64_t s = 0; s < together; s++)
                        wf::round(tile + s * TILE, last - n, p.rounded + (r + s) * p.y_stride + n);
                }
            }
        }
    });
    return true;
}

bool many(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    const AttentionKernels &kernels = runtime.attention();
    // a product's tasks are numbered tile by tile, so that threads share the rows of x rather than the weights
    int64_t last[MOST], sims[MOST], total = 0, used = 0;
    for (int64_t i = 0; i < count; i++) {
        const Product &p = products[i];
        total += (p.rows + GEMM_ROWS - 1) / GEMM_ROWS * ((p.weight.rows + GEMM_TILE - 1) / GEMM_TILE);
        last[i] = total;
        sims[i] = -1;
        if (!p.x_fp8) continue;
        if (i > 0 && same_x(p, products[i - 1])) {
            sims[i] = sims[i - 1];
            continue;
        }
        sims[i] = used;
        used += padded(2 * p.rows * p.weight.columns, LINE);
    }
    const int64_t one = kernels.gemm_bytes();
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(one * runtime.threads() + used));
    if (!scratch) return false;
    uint8_t *const copies = scratch + one * runtime.threads();
    for (int64_t i = 0; i < count; i++) {
        const Product &p = products[i];
        if (sims[i] < 0 || (i > 0 && sims[i] == sims[i - 1])) continue;
        uint16_t *copy = reinterpret_cast<uint16_t *>(copies + sims[i]);
        runtime.each(p.rows, [&](int64_t r, int) {
            fp8_sim(p.x + r * p.stride, p.weight.columns, 128, copy + r * p.weight.columns);
        });
    }
    next.tell(runtime);
    runtime.each(total, [&](int64_t item, int thread) {
        int64_t i = 0;
        while (item >= last[i]) i++;
        const Product &p = products[i];
        const int64_t local = item - (i ? last[i - 1] : 0), parts = (p.rows + GEMM_ROWS - 1) / GEMM_ROWS;
        const int64_t first = local / parts * GEMM_TILE, row = local % parts * GEMM_ROWS;
        const bool copied = sims[i] >= 0;
        const uint16_t *x = copied ? reinterpret_cast<uint16_t *>(copies + sims[i]) : p.x;
        const int64_t stride = copied ? p.weight.columns : p.stride;
        const GemmTask task = {&p.weight,
                               x + row * stride,
                               p.rows - row < GEMM_ROWS ? p.rows - row : GEMM_ROWS,
                               stride,
                               first,
                               p.weight.rows - first < GEMM_TILE ? p.weight.rows - first : GEMM_TILE,
                               p.wide ? p.wide + row * p.y_stride + first : nullptr,
                               p.wide ? nullptr : p.rounded + row * p.y_stride + first,
                               p.y_stride};
        kernels.gemm(task, scratch + one * thread);
    });
    return true;
}

bool in_bf16(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    bool all_few = true;
    for (int64_t i = 0; i < count; i++) all_few = all_few && products[i].rows <= FEW_ROWS;
    return all_few || runtime.batch_invariant ? few(runtime, products, count, next)
                                              : many(runtime, products, count, next);
}

}  // namespace

bool multiply(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    for (; count > MOST; products += MOST, count -= MOST)
        if (!multiply(runtime, products, MOST)) return false;
    if (!runtime.int8) return in_bf16(runtime, products, count, next);
    Product narrow[MOST], others[MOST];
    int64_t num_narrow = 0, num_others = 0;
    for (int64_t i = 0; i < count; i++)
        (in_int8(runtime, products[i]) ? narrow[num_narrow++] : others[num_others++]) = products[i];
    if (!num_others) return multiply_int8(runtime, narrow, num_narrow, next);
    return (!num_narrow || multiply_int8(runtime, narrow, num_narrow, {})) &&
           in_bf16(runtime, others, num_others, next);
}

}  // namespace wf
