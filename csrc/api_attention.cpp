// The C interface of attention and indexing: every size is checked here, and every row that will be read is there.
#include "api.h"
#include "attention.h"

namespace wf {

int check_rows(const wf_rows *given, int64_t most, Rows &rows) {
    if (!given || !given->base) return WF_ERROR_NULL;
    if (given->form < WF_ROWS_BF16 || given->form > WF_ROWS_INDEX) return WF_ERROR_FORM;
    if (bad(given->dim, 1 << 16) || given->rope_dim < 0 || given->rope_dim > given->dim) return WF_ERROR_SHAPE;
    if (given->form == WF_ROWS_INDEX && given->dim % 2) return WF_ERROR_SHAPE;
    const int64_t row_bytes = record_bytes(given->form, given->dim, given->rope_dim);
    if (given->bytes <= 0) return WF_ERROR_BYTES;
    rows = {given->form,
            given->dim,
            given->rope_dim,
            row_bytes,
            given->bytes / row_bytes,
            static_cast<uint8_t *>(given->base),
            given->table,
            given->in_block,
            given->stride};
    if (!given->table) return given->bytes % row_bytes ? WF_ERROR_BYTES : WF_OK;
    if (bad(given->in_block) || given->table_blocks < 0 || given->table_blocks > LARGEST) return WF_ERROR_SHAPE;
    if ((most + given->in_block - 1) / given->in_block > given->table_blocks) return WF_ERROR_SHAPE;
    const int64_t block = given->in_block * row_bytes;
    if (given->stride < block || given->bytes > INT64_MAX - given->stride) return WF_ERROR_BYTES;
    if (given->bytes < block) return most > 0 ? WF_ERROR_BYTES : WF_OK;
    const int64_t blocks = (given->bytes - block) / given->stride + 1;
    for (int64_t i = 0; i * given->in_block < most; i++)
        if (given->table[i] < 0 || given->table[i] >= blocks) return WF_ERROR_SHAPE;
    return WF_OK;
}

}  // namespace wf

using namespace wf;

extern "C" {

int wf_attend(wf_runtime *runtime, int64_t queries, int64_t heads, const uint16_t *q, const float *sink, int64_t first,
              int64_t window, const wf_rows *past, const uint16_t *fresh, const wf_rows *entries, int64_t ratio,
              const int32_t *chosen, int64_t most_chosen, uint16_t *out) {
    if (!runtime || !q || !sink || !past || !fresh || !out) return WF_ERROR_NULL;
    if (bad(queries) || bad(heads, 1 << 16) || bad(window, 1 << 16) || first < 0 || first > LARGEST)
        return WF_ERROR_SHAPE;
    Attend job = {};
    if (const int error = check_rows(past, 0, job.past)) return error;
    const int64_t before = first < window - 1 ? first : window - 1;
    if (job.past.form == WF_ROWS_INDEX || job.past.table || before > job.past.num_rows || job.past.dim % 2)
        return WF_ERROR_SHAPE;
    job.queries = queries, job.heads = heads, job.dim = job.past.dim, job.q = q, job.sink = sink;
    job.first = first, job.window = window, job.fresh = fresh, job.fresh_first = first, job.out = out;
    if (ratio) {
        if (bad(ratio, 1 << 16)) return WF_ERROR_SHAPE;
        job.ratio = ratio;
        const int64_t most = job.visible(queries - 1);
        if (const int error = check_rows(entries, most, job.entries)) return error;
        if (job.entries.form == WF_ROWS_INDEX || job.entries.dim != job.dim) return WF_ERROR_SHAPE;
        if (!job.entries.table && most > job.entries.num_rows) return WF_ERROR_SHAPE;
        if (chosen) {
            if (most_chosen < 0 || most_chosen > LARGEST) return WF_ERROR_SHAPE;
            for (int64_t i = 0; i < queries; i++)
                for (int64_t j = 0; j < most_chosen; j++)
                    if (chosen[i * most_chosen + j] >= job.visible(i)) return WF_ERROR_SHAPE;
            job.chosen = chosen, job.most_chosen = most_chosen;
        }
    }
    const wf::Call inside(*runtime);
    return attend(*runtime, &job, 1, runtime->attention()) ? WF_OK : WF_ERROR_MEMORY;
}

int wf_index(wf_runtime *runtime, int64_t queries, int64_t heads, const uint16_t *q, const uint16_t *weights,
             const wf_rows *keys, int64_t first, int64_t ratio, int64_t k, int32_t released, int32_t *out) {
    if (!runtime || !q || !weights || !out) return WF_ERROR_NULL;
    if (bad(queries) || bad(heads, 1 << 16) || bad(k, 1 << 20) || bad(ratio, 1 << 16) || first < 0 || first > LARGEST)
        return WF_ERROR_SHAPE;
    Index job = {};
    job.queries = queries, job.heads = heads, job.q = q, job.weights = weights;
    job.first = first, job.ratio = ratio, job.k = k, job.released = released, job.out = out;
    const int64_t most = job.visible(queries - 1);
    if (const int error = check_rows(keys, most, job.keys)) return error;
    if (job.keys.form == WF_ROWS_KV || job.keys.dim % 2) return WF_ERROR_SHAPE;
    if (!job.keys.table && most > job.keys.num_rows) return WF_ERROR_SHAPE;
    job.dim = job.keys.dim;
    const wf::Call inside(*runtime);
    return index(*runtime, &job, 1, runtime->attention()) ? WF_OK : WF_ERROR_MEMORY;
}

}  // extern "C"
