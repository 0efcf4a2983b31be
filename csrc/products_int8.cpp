#include "products_int8.h"

#include "blocks.h"
#include "rows.h"

namespace wf {
namespace {

constexpr int64_t PART = 1 << 19;  // bytes of weights that a thread takes at a time while rows of x are few
constexpr int64_t FEW = 32;        // rows of x that are
// Rows of x that are multiplied otherwise, as fast or faster (Zen 4; bench/int8.py): in bfloat16, blocks by block_rows.h.
constexpr int64_t FP4_BF16 = 8, FP8_BF16 = 16, UNITS_FEW = 8;

bool is_units(int form) { return is_blocks(form) && block_size(form).values == UNIT; }

struct Plan {
    Runtime &runtime;
    const Int8Kernels &kernels;
    const ManyRows &many;
    const Product *const products;
    const int64_t count;
    int64_t x_at[MOST_PRODUCTS] = {};                           // where a product's x begins, in bytes
    int64_t owners[MOST_PRODUCTS] = {}, owned = 0, x_rows = 0;  // products with an x of their own, their rows together
    int64_t x_bytes = 0, tasks = 0, bytes = 0, most_rows = 0;
    uint8_t *x = nullptr;
    uint8_t *scratch = nullptr;

    // Each distinct x is rounded once for all products that share it.
    void lay_out() {
        for (int64_t i = 0; i < count; i++) {
            const Product &p = products[i];
            tasks += num_tasks(p), bytes += p.weight.rows * p.weight.row_bytes();
            most_rows = std::max(p.rows, most_rows);
            int64_t other = 0;
            while (other < i && !same_x(p, products[other])) other++;
            x_at[i] = other < i ? x_at[other] : x_bytes;
            if (other < i) continue;
            owners[owned++] = i;
            x_rows += p.rows, x_bytes += padded(p.rows * row_bytes(p.weight), int64_t(alignof(BlockRecord)));
        }
    }
    // Of a row of x as records.
    static int64_t row_bytes(const Matrix &m) {
        return is_units(m.form) ? units_of(m) * int64_t(sizeof(BlockRecord)) : m.chunks() * INT8_RECORD;
    }
    int64_t scratch_bytes() const { return std::max(kernels.bytes(), many.scratch_bytes()); }
    static bool same_x(const Product &a, const Product &b) { return same_rows(a, b) && a.weight.form == b.weight.form; }
    static int64_t num_blocks(const Product &p) { return (p.rows + INT8_ROWS - 1) / INT8_ROWS; }
    static int64_t num_tasks(const Product &p) { return num_blocks(p) * ((p.weight.rows + INT8_TILE - 1) / INT8_TILE); }

    void round() const {
        runtime.each(x_rows, [&](int64_t row, int) {
            int64_t o = 0;
            while (row >= products[owners[o]].rows) row -= products[owners[o++]].rows;
            const Product &p = products[owners[o]];
            const uint16_t *from = p.x + row * p.stride;
            uint8_t *to = x + x_at[owners[o]];
            if (is_units(p.weight.form))
                return many.record(p.weight, from, reinterpret_cast<BlockRecord *>(to) + row, p.rows);
            int8_row(from, p.weight.columns, p.weight.form == WF_FP4, reinterpret_cast<Int8Record *>(to) + row, p.rows);
        });
    }

    // Tasks are numbered tile by tile, so that threads share the rows of x rather than the weights. While the rows are few a
    // thread takes many tiles on end, and asks for the next one's weights.
    void multiply() const {
        int64_t parts = parts_of(bytes, PART, runtime.threads());
        if (most_rows > FEW || parts > tasks) parts = tasks;
        runtime.each(parts, [&](int64_t part, int thread) {
            const int64_t end = tasks * (part + 1) / parts;
            int64_t i = 0, passed = 0;
            for (int64_t item = tasks * part / parts; item < end; item++) {
                while (item - passed >= num_tasks(products[i])) passed += num_tasks(products[i++]);
                run(i, item - passed, item + 1 < end, scratch + thread * scratch_bytes());
            }
        });
    }

    void run(int64_t i, int64_t task, bool more, uint8_t *memory) const {
        const Product &p = products[i];
        const int64_t parts = num_blocks(p), first = task / parts * INT8_TILE, row = task % parts * INT8_ROWS;
        const int64_t left = p.weight.rows - first, count = left < INT8_TILE ? left : INT8_TILE;
        const int64_t record = is_units(p.weight.form) ? int64_t(sizeof(BlockRecord)) : INT8_RECORD;
        const auto multiply = is_units(p.weight.form) ? many.multiply : kernels.multiply;
        multiply({&p.weight, x + x_at[i] + row * record, p.rows - row < INT8_ROWS ? p.rows - row : INT8_ROWS, p.rows,
                  first, count,
                  more && left >= 2 * INT8_TILE ? p.weight.codes + (first + INT8_TILE) * p.weight.row_bytes() : nullptr,
                  p.wide ? p.wide + row * p.y_stride + first : nullptr,
                  p.wide ? nullptr : p.rounded + row * p.y_stride + first, p.y_stride},
                 memory);
    }
};

}  // namespace

bool in_int8(const Runtime &runtime, const Product &product) {
    if (!runtime.int8) return false;
    if (is_units(product.weight.form))
        return product.rows > std::min<int64_t>(UNITS_FEW, runtime.tuning.few_rows) && !runtime.batch_invariant;
    if (!has_int8_form(product.weight.form)) return false;
    const bool is_fp4 = product.weight.form == WF_FP4;
    return product.rows > (is_fp4 ? FP4_BF16 : FP8_BF16) || runtime.batch_invariant;
}

bool multiply_int8(Runtime &runtime, const Product *products, int64_t count, const Ahead &next) {
    Plan plan = {runtime, runtime.int8_kernels(), runtime.block_kernels().many, products, count};
    plan.lay_out();
    const int64_t mine = runtime.threads() * plan.scratch_bytes();
    plan.scratch = static_cast<uint8_t *>(runtime.scratch(mine + plan.x_bytes));
    if (!plan.scratch) return false;
    plan.x = plan.scratch + mine;
    plan.round();
    next.tell(runtime);
    plan.multiply();
    return true;
}

}  // namespace wf
