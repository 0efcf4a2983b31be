#include "products_int8.h"

#include "int8.h"
#include "rowwise.h"

namespace wf {
namespace {

constexpr int64_t MOST = 256;  // products of one pass
constexpr int64_t LINE = 64;
constexpr int64_t STRIP = 512;     // sums of a row of x kept before they are rounded
constexpr int64_t PART = 1 << 19;  // bytes of weights that a thread takes at a time
constexpr int64_t FEW = 12;        // rows of x up to which FP4 is decoded for each few of them
constexpr int64_t FP8_FEW = 12;    // and FP8 is multiplied in bfloat16

struct Plan {
    Runtime &runtime;
    const Int8Kernels &kernels;
    const Product *const products;
    const int64_t count;
    bool few[MOST];
    int64_t x_at[MOST], x_bytes[MOST];  // where a product's x lies in the scratch, and the bytes of a row of it
    int64_t owners[MOST], owned = 0, rows = 0, used = 0;
    uint8_t *scratch = nullptr;

    // Each distinct x is quantized once for all products that share it.
    void lay_out() {
        for (int64_t i = 0; i < count; i++) {
            const Product &p = products[i];
            few[i] = p.weight.form == WF_FP4 && (p.rows <= FEW || runtime.batch_invariant);
            int64_t other = 0;
            while (other < i && !same_x(i, other)) other++;
            if (other < i) {
                x_at[i] = x_at[other], x_bytes[i] = x_bytes[other];
                continue;
            }
            owners[owned++] = i;
            rows += p.rows;
            x_at[i] = used;
            x_bytes[i] = few[i] ? kernels.arranged_bytes(p.weight) : int8_row_bytes(p.weight.columns);
            used += x_bytes[i] * p.rows;
        }
    }
    bool same_x(int64_t i, int64_t other) const {
        const Product &a = products[i], &b = products[other];
        return a.x == b.x && a.rows == b.rows && a.stride == b.stride && a.weight.columns == b.weight.columns &&
               a.weight.form == b.weight.form && few[i] == few[other];
    }

    void quantize() const {
        runtime.each(rows, [&](int64_t row, int) {
            int64_t o = 0;
            while (row >= products[owners[o]].rows) row -= products[owners[o++]].rows;
            const int64_t i = owners[o];
            const Product &p = products[i];
            uint8_t *to = scratch + x_at[i] + row * x_bytes[i];
            if (few[i]) kernels.arrange(p.weight, p.x + row * p.stride, to);
            else int8_row(p.x + row * p.stride, p.weight.columns, p.weight.form == WF_FP4, to);
        });
    }

    // Bytes of weights that a product of few rows reads, once for each INT8_FEW of them.
    int64_t row_work(int64_t i) const {
        const Product &p = products[i];
        return few[i] ? p.weight.row_bytes() * ((p.rows + INT8_FEW - 1) / INT8_FEW) : 0;
    }

    // The rows of all matrices stand in one line, cut by bytes.
    void multiply_few(float *sums) const {
        int64_t bytes = 0;
        for (int64_t i = 0; i < count; i++) bytes += products[i].weight.rows * row_work(i);
        const int64_t threads = runtime.threads(), most = 16 * threads, parts = bytes / PART < threads ? threads
                                                                                : bytes / PART < most  ? bytes / PART
                                                                                                       : most;
        if (!bytes) return;
        runtime.each(parts, [&](int64_t part, int thread) {
            const int64_t begin = bytes * part / parts, stop = bytes * (part + 1) / parts;
            int64_t passed = 0;
            for (int64_t i = 0; i < count && passed < stop; i++) {
                const int64_t one = row_work(i), all = products[i].weight.rows;
                if (!one) continue;
                // rows whose first byte lies in begin .. stop
                int64_t first = begin <= passed ? 0 : (begin - passed + one - 1) / one;
                int64_t end = stop <= passed ? 0 : (stop - passed + one - 1) / one;
                passed += all * one;
                first = first < all ? first : all, end = end < all ? end : all;
                for (int64_t n = first; n < end; n += STRIP)
                    strip(i, n, n + STRIP < end ? n + STRIP : end, sums + thread * INT8_FEW * STRIP);
            }
        });
    }

    void strip(int64_t i, int64_t n, int64_t end, float *sums) const {
        const Product &p = products[i];
        for (int64_t r = 0; r < p.rows; r += INT8_FEW) {
            const int together = int(p.rows - r < INT8_FEW ? p.rows - r : INT8_FEW);
            const uint8_t *x = scratch + x_at[i] + r * x_bytes[i];
            if (p.wide) {
                kernels.rows(p.weight, x, together, n, end, p.wide + r * p.y_stride, p.y_stride);
                continue;
            }
            kernels.rows(p.weight, x, together, n, end, sums - n, STRIP);
            for (int64_t s = 0; s < together; s++)
                wf::round(sums + s * STRIP, end - n, p.rounded + (r + s) * p.y_stride + n);
        }
    }

    // Tasks are numbered tile by tile, so that threads share the rows of x rather than the weights.
    int64_t tasks(int64_t i) const {
        const Product &p = products[i];
        return few[i] ? 0 : (p.rows + INT8_ROWS - 1) / INT8_ROWS * ((p.weight.rows + INT8_TILE - 1) / INT8_TILE);
    }

    void multiply_many(uint8_t *memory) const {
        int64_t total = 0;
        for (int64_t i = 0; i < count; i++) total += tasks(i);
        if (!total) return;
        runtime.each(total, [&](int64_t item, int thread) {
            int64_t i = 0;
            while (item >= tasks(i)) item -= tasks(i++);
            const Product &p = products[i];
            const int64_t blocks = (p.rows + INT8_ROWS - 1) / INT8_ROWS;
            const int64_t first = item / blocks * INT8_TILE, row = item % blocks * INT8_ROWS;
            const Int8Task task = {&p.weight,
                                   scratch + x_at[i] + row * x_bytes[i],
                                   p.rows - row < INT8_ROWS ? p.rows - row : INT8_ROWS,
                                   first,
                                   p.weight.rows - first < INT8_TILE ? p.weight.rows - first : INT8_TILE,
                                   p.wide ? p.wide + row * p.y_stride + first : nullptr,
                                   p.wide ? nullptr : p.rounded + row * p.y_stride + first,
                                   p.y_stride};
            kernels.gemm(task, memory + thread * kernels.gemm_bytes());
        });
    }
};

}  // namespace

bool in_int8(const Runtime &runtime, const Product &product) {
    if (!runtime.int8 || product.weight.form > WF_FP8) return false;
    return product.weight.form == WF_FP4 || (product.rows > FP8_FEW && !runtime.batch_invariant);
}

bool multiply_int8(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    Plan plan = {runtime, runtime.int8_kernels(), products, count, {}, {}, {}, {}};
    plan.lay_out();
    const int64_t x = (plan.used + LINE - 1) / LINE * LINE;
    const int64_t strips = 4 * INT8_FEW * STRIP, one = strips > plan.kernels.gemm_bytes() ? strips : plan.kernels.gemm_bytes();
    plan.scratch = static_cast<uint8_t *>(runtime.scratch(x + runtime.threads() * one));
    if (!plan.scratch) return false;
    plan.quantize();
    next.tell(runtime);
    plan.multiply_few(reinterpret_cast<float *>(plan.scratch + x));
    plan.multiply_many(plan.scratch + x);
    return true;
}

}  // namespace wf
