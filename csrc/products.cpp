#include "products.h"

#include <algorithm>
#include <cstring>

#include "api.h"
#include "attention.h"
#include "blocks.h"
#include "products_int8.h"
#include "quantize.h"
#include "rowwise.h"

namespace wf {
namespace {

constexpr int64_t LINE = 64;
constexpr int64_t TILE = 512;       // rows of sums kept before they are rounded
constexpr int64_t PART = 1 << 16;   // bytes of weights that a thread takes at a time, at the least
constexpr int64_t BLOCKS_FEW = 16;  // rows of x up to which blocks come apart in registers, at the most (Zen 4)
constexpr int64_t NEAR = 1 << 17;   // bytes of weights that several groups of rows of x read one after the other

bool same_x(const Product &a, const Product &b) { return same_rows(a, b) && a.x_fp8 == b.x_fp8; }

// Rows begin .. stop of the x that a product multiplies, in `copy` if they had to be changed.
const uint16_t *plain_rows(const Product &p, int64_t begin, int64_t stop, uint16_t *copy) {
    const int64_t columns = p.weight.columns;
    if (!p.x_fp8 && p.stride == columns) return p.x + begin * columns;
    for (int64_t r = begin; r < stop; r++) {
        uint16_t *to = copy + (r - begin) * columns;
        if (p.x_fp8) fp8_sim(p.x + r * p.stride, columns, 128, to);
        else std::memcpy(to, p.x + r * p.stride, size_t(2 * columns));
    }
    return copy;
}

// Rows of x are multiplied in groups: as few equal ones as the registers of the kernels of the product's form allow.
int64_t groups_of(const Runtime &runtime, const Product &p) {
    const bool blocks = is_blocks(p.weight.form);
    const int64_t together = blocks ? runtime.block_kernels().together : runtime.kernels_for(p.rows).together;
    return (p.rows + together - 1) / together;
}

// What the kernels of a product's form do.
int64_t arranged_bytes(const Runtime &runtime, const Product &p, int64_t rows) {
    if (is_blocks(p.weight.form)) return runtime.block_kernels().arranged_bytes(p.weight, rows);
    return runtime.kernels_for(p.rows).arranged_bytes(p.weight, rows);
}

void arrange_rows(const Runtime &runtime, const Product &p, const uint16_t *x, int64_t rows, uint8_t *to) {
    if (is_blocks(p.weight.form)) runtime.block_kernels().arrange(p.weight, x, rows, runtime.int8, to);
    else runtime.kernels_for(p.rows).arrange(p.weight, x, rows, to);
}

void multiply_rows(const Runtime &runtime, const Product &p, const uint8_t *x, int64_t rows, int64_t first, int64_t end,
                   float *y, int64_t stride) {
    const wf_tuning &tuning = runtime.tuning;
    const bool plain = rows == 1 && (p.weight.form == WF_BF16 || p.weight.form == WF_FP32);
    const Feed feed = {plain ? tuning.plain_hint : tuning.hint, tuning.ahead};
    if (is_blocks(p.weight.form)) runtime.block_kernels().rows(p.weight, feed, x, int(rows), first, end, y, stride);
    else runtime.kernels_for(p.rows).rows(p.weight, feed, x, int(rows), first, end, y, stride);
}

bool few(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    // arranged[i]: where product i finds its x, arranged once for all that share it
    int64_t arranged[MOST_PRODUCTS], owners[MOST_PRODUCTS], ends[MOST_PRODUCTS];
    int64_t owned = 0, groups = 0, used = 0, plain = 0, bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        const Product &p = products[i];
        bytes += p.weight.rows * p.weight.row_bytes() * groups_of(runtime, p);
        int64_t other = 0;
        while (other < i && !(same_x(p, products[other]) && p.weight.form == products[other].weight.form)) other++;
        if (other < i) {
            arranged[i] = arranged[other];
            continue;
        }
        owners[owned] = i;
        ends[owned++] = groups += groups_of(runtime, p);
        arranged[i] = used;
        used += padded(arranged_bytes(runtime, p, p.rows), LINE);
        const int64_t copy = padded(2 * std::min<int64_t>(p.rows, MAX_ROWS) * p.weight.columns, LINE);
        plain = std::max(copy, plain);
    }
    const int64_t threads = runtime.threads();
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(used + threads * plain + threads * MAX_ROWS * TILE * 4));
    if (!scratch) return false;
    uint8_t *const plains = scratch + used;
    float *const sums = reinterpret_cast<float *>(plains + threads * plain);
    const auto arrange = [&](int64_t item, int thread) {
        int64_t owner = 0;
        while (item >= ends[owner]) owner++;
        const Product &p = products[owners[owner]];
        const int64_t of = groups_of(runtime, p), group = item - (ends[owner] - of);
        const int64_t begin = p.rows * group / of, stop = p.rows * (group + 1) / of;
        const uint16_t *x = plain_rows(p, begin, stop, reinterpret_cast<uint16_t *>(plains + thread * plain));
        arrange_rows(runtime, p, x, stop - begin,
                     scratch + arranged[owners[owner]] + arranged_bytes(runtime, p, begin));
    };
    runtime.each(groups, arrange);
    next.tell(runtime);
    const int64_t parts = parts_of(bytes, PART, threads);
    runtime.each(parts, [&](int64_t part, int thread) {
        const int64_t begin = bytes * part / parts, stop = bytes * (part + 1) / parts;
        float *tile = sums + thread * MAX_ROWS * TILE;
        int64_t passed = 0;
        for (int64_t i = 0; i < count && passed < stop; i++) {
            const Product &p = products[i];
            const int64_t one = p.weight.row_bytes() * groups_of(runtime, p), rows = p.weight.rows;
            // rows whose first byte lies in begin .. stop
            int64_t first = begin <= passed ? 0 : (begin - passed + one - 1) / one;
            int64_t end = stop <= passed ? 0 : (stop - passed + one - 1) / one;
            passed += rows * one;
            first = first < rows ? first : rows, end = end < rows ? end : rows;
            const int64_t groups = groups_of(runtime, p), near = NEAR / p.weight.row_bytes();
            // the next group reads the rows of the weight from a near cache
            const int64_t tall = groups == 1 || near > TILE ? TILE : near < LINE ? LINE : near;
            for (int64_t n = first; n < end; n += tall)
                for (int64_t group = 0; group < groups; group++) {
                    const int64_t last = std::min(n + tall, end);
                    const int64_t r = p.rows * group / groups, together = p.rows * (group + 1) / groups - r;
                    const uint8_t *x = scratch + arranged[i] + arranged_bytes(runtime, p, r);
                    if (p.wide) {
                        multiply_rows(runtime, p, x, together, n, last, p.wide + r * p.y_stride, p.y_stride);
                        continue;
                    }
                    multiply_rows(runtime, p, x, together, n, last, tile - n, TILE);
                    for (int64_t s = 0; s < together; s++)
                        wf::round(tile + s * TILE, last - n, p.rounded + (r + s) * p.y_stride + n);
                }
        }
    });
    return true;
}

bool many(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    const AttentionKernels &usual = runtime.attention();
    // a product's tasks are numbered tile by tile, so that threads share the rows of x rather than the weights
    int64_t last[MOST_PRODUCTS], sims[MOST_PRODUCTS], total = 0, used = 0;
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
    const AttentionKernels &in_float = Runtime::attention_of(runtime.kernels_for(INT64_MAX));
    const int64_t one = std::max(usual.gemm_bytes(), in_float.gemm_bytes());
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
                               &runtime.block_kernels().many,
                               x + row * stride,
                               p.rows - row < GEMM_ROWS ? p.rows - row : GEMM_ROWS,
                               stride,
                               first,
                               p.weight.rows - first < GEMM_TILE ? p.weight.rows - first : GEMM_TILE,
                               p.wide ? p.wide + row * p.y_stride + first : nullptr,
                               p.wide ? nullptr : p.rounded + row * p.y_stride + first,
                               p.y_stride};
        Runtime::attention_of(runtime.kernels_for(p.rows)).gemm(task, scratch + one * thread);
    });
    return true;
}

}  // namespace

bool multiply(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    for (; count > MOST_PRODUCTS; products += MOST_PRODUCTS, count -= MOST_PRODUCTS)
        if (!multiply(runtime, products, MOST_PRODUCTS)) return false;
    // x rounded to 8 bits; weights in tiles that serve many rows of x; weights decoded in registers for few
    constexpr bool (*WAYS[])(Runtime &, const Product *, int64_t, const Ahead &) = {multiply_int8, many, few};
    Product parts[3][MOST_PRODUCTS];
    int64_t counts[3] = {0, 0, 0};
    for (int64_t i = 0; i < count; i++) {
        const int64_t few_rows = std::min<int64_t>(
            runtime.tuning.few_rows, is_blocks(products[i].weight.form) ? BLOCKS_FEW : runtime.tuning.few_rows);
        const bool is_many = !runtime.batch_invariant && products[i].rows > few_rows;
        const int way = in_int8(runtime, products[i]) ? 0 : is_many ? 1 : 2;
        parts[way][counts[way]++] = products[i];
    }
    const int last = counts[2] ? 2 : counts[1] ? 1 : 0;
    for (int way = 0; way <= last; way++)
        if (counts[way] && !WAYS[way](runtime, parts[way], counts[way], way == last ? next : Ahead())) return false;
    return true;
}

}  // namespace wf
