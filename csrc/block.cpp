#include "block.h"

#include "api.h"
#include "hyper.h"

namespace wf {
namespace {

bool shaped(const Matrix &matrix, int64_t rows, int64_t columns) {
    return matrix.rows == rows && matrix.columns == columns;
}

int check_mixer(const wf_mixer &given, const wf_block &block, Mixer &mixer) {
    if (!given.base || !given.scale || !given.norm) return WF_ERROR_NULL;
    if (const int error = check_matrix(&given.fn, mixer.fn)) return error;
    mixer.given = &given;
    const int64_t outputs = 2 * block.streams + block.streams * block.streams;
    return shaped(mixer.fn, outputs, block.streams * block.hidden) ? WF_OK : WF_ERROR_SHAPE;
}

int check_compressor(const wf_compressor &given, const wf_block &block, Compressor &compressor) {
    if (!given.ape || !given.norm) return WF_ERROR_NULL;
    if (bad(given.dim, 1 << 16) || given.dim < block.rope_dim || given.dim % 2) return WF_ERROR_SHAPE;
    compressor = {given.dim, given.dim * (block.overlap ? 2 : 1), {}, {}, given.ape, given.norm};
    if (const int error = check_matrix(&given.wkv, compressor.wkv)) return error;
    if (const int error = check_matrix(&given.wgate, compressor.wgate)) return error;
    const bool fits = shaped(compressor.wkv, compressor.width, block.hidden) &&
                      shaped(compressor.wgate, compressor.width, block.hidden);
    return fits ? WF_OK : WF_ERROR_SHAPE;
}

}  // namespace

int check_block(const wf_block &given, Block &block) {
    block = {};
    block.given = &given;
    if (bad(given.hidden, 1 << 20) || given.streams < 1 || given.streams > MOST_STREAMS || given.iters < 1)
        return WF_ERROR_SHAPE;
    if (bad(given.heads, 1 << 16) || bad(given.head_dim, 1 << 14) || given.head_dim % 2) return WF_ERROR_SHAPE;
    if (given.rope_dim < 0 || given.rope_dim > given.head_dim || given.rope_dim % 2) return WF_ERROR_SHAPE;
    if (bad(given.groups, given.heads) || given.heads % given.groups || bad(given.window, 1 << 16))
        return WF_ERROR_SHAPE;
    if (given.ratio < 0 || given.ratio > 1 << 16 || given.index_heads < 0 || given.index_heads > 1 << 16)
        return WF_ERROR_SHAPE;
    if (bad(given.num_experts, 1 << 20) || bad(given.topk, given.num_experts)) return WF_ERROR_SHAPE;
    if (!given.sink || !given.frequencies || !given.q_norm || !given.kv_norm) return WF_ERROR_NULL;
    if (!given.gate_bias && (!given.gate_table || bad(given.vocabulary))) return WF_ERROR_NULL;
    if (const int error = check_mixer(given.attention, given, block.attention)) return error;
    if (const int error = check_mixer(given.experts, given, block.experts)) return error;
    const wf_matrix *matrices[] = {&given.wq_a, &given.wq_b, &given.wkv, &given.wo_a, &given.wo_b, &given.gate};
    Matrix *checked[] = {&block.wq_a, &block.wq_b, &block.wkv, &block.wo_a, &block.wo_b, &block.gate};
    for (int i = 0; i < 6; i++)
        if (const int error = check_matrix(matrices[i], *checked[i])) return error;
    const int64_t width = given.heads * given.head_dim;
    if (!shaped(block.wq_a, block.wq_a.rows, given.hidden) || !shaped(block.wq_b, width, block.wq_a.rows) ||
        !shaped(block.wkv, given.head_dim, given.hidden) || !shaped(block.gate, given.num_experts, given.hidden) ||
        !shaped(block.wo_a, block.wo_a.rows, width / given.groups) || block.wo_a.rows % given.groups ||
        !shaped(block.wo_b, given.hidden, block.wo_a.rows))
        return WF_ERROR_SHAPE;
    if (block.wo_a.form == WF_FP8 && block.wo_a.rows / given.groups % 128) return WF_ERROR_SHAPE;
    if (!given.ratio) return given.index_heads ? WF_ERROR_SHAPE : WF_OK;
    if (const int error = check_compressor(given.entries, given, block.entries)) return error;
    if (block.entries.dim != given.head_dim) return WF_ERROR_SHAPE;
    if (!given.index_heads) return WF_OK;
    if (bad(given.index_topk, 1 << 20)) return WF_ERROR_SHAPE;
    if (const int error = check_compressor(given.keys, given, block.keys)) return error;
    if (const int error = check_matrix(&given.index_wq_b, block.index_wq_b)) return error;
    if (const int error = check_matrix(&given.index_weights, block.index_weights)) return error;
    if (given.keys.dim > 1024 || (given.released && (given.keys.dim & (given.keys.dim - 1)))) return WF_ERROR_SHAPE;
    const bool fits = shaped(block.index_wq_b, given.index_heads * given.keys.dim, block.wq_a.rows) &&
                      shaped(block.index_weights, given.index_heads, given.hidden);
    return fits ? WF_OK : WF_ERROR_SHAPE;
}

int check_span(const wf_span &given, const wf_block &block, int64_t layer, int64_t first, Span &span) {
    if (!given.views) return WF_ERROR_NULL;
    const wf_view &view = given.views[layer];
    span = {given.position, given.tokens, first, {}, {}, {}, &view, {}, {}, given.marked ? given.mark : 0};
    if (given.staged) span.staged = given.staged[layer];
    if (given.marked) span.marked = given.marked[layer];
    if (given.position < 0 || given.position > LARGEST || bad(given.tokens)) return WF_ERROR_SHAPE;
    if (given.marked && bad(given.mark, given.tokens)) return WF_ERROR_SHAPE;
    const auto lacks = [&](auto field) {
        return (given.staged && !(span.staged.*field)) || (given.marked && !(span.marked.*field));
    };
    if (const int error = check_rows(&view.window, 0, span.window)) return error;
    if (span.window.table || span.window.dim != block.head_dim || span.window.form == WF_ROWS_INDEX)
        return WF_ERROR_SHAPE;
    if (span.window.num_rows < block.window) return WF_ERROR_SHAPE;
    if (lacks(&wf_staged::window)) return WF_ERROR_NULL;
    if (!block.ratio) return WF_OK;
    const int64_t entries = span.end() / block.ratio, reach = block.ratio * (block.overlap ? 2 : 1);
    if (const int error = check_rows(&view.entries, entries, span.entries)) return error;
    if (span.entries.dim != block.head_dim || span.entries.form == WF_ROWS_INDEX || !span.entries.table)
        return WF_ERROR_SHAPE;
    if (!view.tail || lacks(&wf_staged::tail)) return WF_ERROR_NULL;
    if (view.tail_rows < reach || view.tail_rows > LARGEST) return WF_ERROR_SHAPE;
    if (!block.index_heads) return WF_OK;
    if (const int error = check_rows(&view.keys, entries, span.keys)) return error;
    if (span.keys.dim != block.keys.dim || span.keys.form == WF_ROWS_KV || !span.keys.table) return WF_ERROR_SHAPE;
    if (!view.key_tail || lacks(&wf_staged::key_tail)) return WF_ERROR_NULL;
    return view.key_tail_rows < reach || view.key_tail_rows > LARGEST ? WF_ERROR_SHAPE : WF_OK;
}

int check_spans(const wf_span *given, int64_t count, const wf_block &block, int64_t layer, std::vector<Span> &spans,
                int64_t &tokens) {
    if (!given) return WF_ERROR_NULL;
    if (bad(count, MOST_SPANS)) return WF_ERROR_SHAPE;
    spans.assign(size_t(count), Span{});
    tokens = 0;
    for (int64_t s = 0; s < count; s++) {
        if (const int error = check_span(given[s], block, layer, tokens, spans[size_t(s)])) return error;
        tokens += given[s].tokens;
        if (tokens > MOST_TOKENS) return WF_ERROR_SHAPE;
    }
    return WF_OK;
}

int check_expert(const wf_expert &given, int64_t hidden, Expert &expert) {
    expert.id = given.id;
    if (const int error = check_matrix(&given.w1, expert.w1)) return error;
    if (const int error = check_matrix(&given.w2, expert.w2)) return error;
    if (const int error = check_matrix(&given.w3, expert.w3)) return error;
    const bool fits = shaped(expert.w1, expert.w1.rows, hidden) && shaped(expert.w3, expert.w1.rows, hidden) &&
                      shaped(expert.w2, hidden, expert.w1.rows);
    return fits ? WF_OK : WF_ERROR_SHAPE;
}

int check_ranges(const wf_range *given, int64_t count) {
    if (count < 0) return WF_ERROR_SHAPE;
    if (count && !given) return WF_ERROR_NULL;
    for (int64_t i = 0; i < count; i++)
        if (given[i].bytes < 0) return WF_ERROR_SHAPE;
    return WF_OK;
}

}  // namespace wf
