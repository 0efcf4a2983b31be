// Small models of every shape for the fuzzer: blocks, experts, caches in buffers of exactly their size. Half of them hold
// random bytes, where nothing may fault; in the others what comes out must be finite.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fuzz.h"

inline bool finite(const uint16_t *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if ((values[i] & 0x7F80) == 0x7F80) return false;
    return true;
}

// Buffers that live as long as a call.
struct Held {
    Fuzz &fuzz;
    bool tame;
    std::vector<std::unique_ptr<uint8_t[]>> bytes;

    uint8_t *raw(int64_t count) {
        bytes.push_back(fuzz.values<uint8_t>(count));
        return bytes.back().get();
    }
    uint16_t *bf16(int64_t count) {
        uint16_t *data = reinterpret_cast<uint16_t *>(raw(2 * count));
        if (tame) std::memcpy(data, fuzz.bf16(count).get(), size_t(2 * count));
        return data;
    }
    float *floats(int64_t count) {
        float *data = reinterpret_cast<float *>(raw(4 * count));
        for (int64_t i = 0; tame && i < count; i++) data[i] = float(int64_t(fuzz.below(2001)) - 1000) / 1000;
        return data;
    }
    wf_matrix matrix(int64_t rows, int64_t columns, int form = -1) {
        if (form < 0) form = int(fuzz.below(4));
        if (form == WF_FP4 && columns % 2) form = WF_BF16;
        const int64_t row_bytes = form == WF_FP4 ? columns / 2 : columns << (form - 1);
        const int64_t scales = form == WF_FP4   ? rows * ((columns + 31) / 32)
                               : form == WF_FP8 ? (rows + 127) / 128 * ((columns + 127) / 128)
                                                : 0;
        wf_matrix m = {form, rows, columns, nullptr, rows * row_bytes, nullptr, scales};
        if (form == WF_BF16) m.codes = bf16(rows * columns);
        else if (form == WF_FP32) m.codes = floats(rows * columns);
        else {
            uint8_t *codes = raw(m.codes_bytes), *scale = raw(scales);
            for (int64_t i = 0; tame && form == WF_FP8 && i < m.codes_bytes; i++) codes[i] &= 0xB7;
            for (int64_t i = 0; tame && i < scales; i++) scale[i] = uint8_t(120 + scale[i] % 8);
            m.codes = codes, m.scales = scale;
        }
        return m;
    }
};

// What is to be read next: memory that is there, that ends elsewhere or that never was.
inline std::vector<wf_range> ranges(Fuzz &fuzz) {
    std::vector<wf_range> made(size_t(fuzz.below(20)));
    for (wf_range &range : made) {
        const void *at = fuzz.below(2) ? static_cast<const void *>(&fuzz) : nullptr;
        range = {at, int64_t(fuzz.below(2) ? fuzz.below(100000) : (int64_t(1) << 62))};
    }
    return made;
}

inline int64_t record_bytes(int form, int64_t dim, int64_t rope_dim) {
    const int64_t nope = dim - rope_dim;
    if (form == WF_ROWS_KV) return (nope + 2 * rope_dim + (nope + 63) / 64 + 7) / 8 * 8;
    return form == WF_ROWS_INDEX ? dim / 2 + (dim + 31) / 32 : 2 * dim;
}

// `count` rows in blocks, or a ring where there is no table. Zeros are rows of every form.
inline wf_rows rows_of(Held &held, int form, int64_t dim, int64_t rope_dim, int64_t count, bool paged) {
    Fuzz &fuzz = held.fuzz;
    const int64_t in_block = 1 + fuzz.below(9), blocks = (count + in_block - 1) / in_block;
    const int64_t row_bytes = record_bytes(form, dim, rope_dim);
    wf_rows rows = {form, dim, rope_dim, nullptr, count * row_bytes, nullptr, 0, in_block, 0};
    if (paged) {
        rows.stride = in_block * row_bytes + (fuzz.below(2) ? fuzz.below(100) : 0);
        rows.bytes = blocks * rows.stride + in_block * row_bytes;
    }
    rows.base = held.raw(rows.bytes);
    if (held.tame) std::memset(rows.base, 0, size_t(rows.bytes));
    if (!paged) return rows;
    int64_t *table = reinterpret_cast<int64_t *>(held.raw(8 * (blocks + !blocks)));
    const int64_t shift = fuzz.below(blocks + 1);
    for (int64_t i = 0; i < blocks; i++) table[i] = (i + shift) % (blocks + 1);
    rows.table = table, rows.table_blocks = blocks;
    return rows;
}

inline int64_t even(Fuzz &fuzz, int64_t most) { return 2 + 2 * fuzz.below(most / 2); }

// A small block of any shape. topk 0: any.
inline wf_block block_of(Held &held, int64_t hidden, int64_t streams, int64_t topk) {
    Fuzz &fuzz = held.fuzz;
    wf_block b = {};
    b.released = int32_t(fuzz.below(2)), b.hidden = hidden, b.streams = streams, b.iters = 1 + int32_t(fuzz.below(3));
    b.hc_eps = 1e-6f, b.norm_eps = 1e-6f;
    const int64_t all = b.streams * b.hidden, mixes = 2 * b.streams + b.streams * b.streams;
    for (wf_mixer *mixer : {&b.attention, &b.experts})
        *mixer = {held.matrix(mixes, all), held.floats(mixes), held.floats(3), held.bf16(b.hidden)};
    const int64_t index_dim = int64_t(1) << (1 + fuzz.below(6));
    b.groups = 1 + fuzz.below(3), b.heads = b.groups * (1 + fuzz.below(3)), b.head_dim = even(fuzz, 140);
    b.rope_dim = 2 * fuzz.below(std::min(b.head_dim, index_dim) / 2 + 1), b.window = 1 + fuzz.below(70);
    const int64_t ratios[] = {0, 1, 2, 4, 7};
    b.ratio = ratios[fuzz.below(5)], b.overlap = b.ratio && fuzz.below(2);
    b.sink = held.floats(b.heads), b.frequencies = held.floats(b.rope_dim / 2 + 1);
    const int64_t lora = 1 + fuzz.below(40), rank = fuzz.below(4) ? 1 + fuzz.below(9) : 128,
                  width = b.heads * b.head_dim;
    b.wq_a = held.matrix(lora, b.hidden), b.wq_b = held.matrix(width, lora), b.wkv = held.matrix(b.head_dim, b.hidden);
    b.wo_a = held.matrix(b.groups * rank, width / b.groups, rank == 128 ? WF_FP8 : WF_BF16);
    b.wo_b = held.matrix(b.hidden, b.groups * rank), b.q_norm = held.bf16(lora), b.kv_norm = held.bf16(b.head_dim);
    const auto compressor = [&](int64_t dim) {
        const int64_t wide = dim * (b.overlap ? 2 : 1);
        return wf_compressor{dim, held.matrix(wide, b.hidden), held.matrix(wide, b.hidden), held.floats(b.ratio * wide),
                             held.bf16(dim)};
    };
    if (b.ratio) b.entries = compressor(b.head_dim);
    if (b.ratio && fuzz.below(2)) {
        b.index_heads = 1 + fuzz.below(5), b.index_topk = 1 + fuzz.below(9), b.keys = compressor(index_dim);
        b.index_wq_b = held.matrix(b.index_heads * index_dim, lora),
        b.index_weights = held.matrix(b.index_heads, b.hidden);
    }
    b.num_experts = (topk ? topk : 1) + fuzz.below(9), b.topk = topk ? topk : 1 + fuzz.below(b.num_experts),
    b.gate = held.matrix(b.num_experts, b.hidden);
    b.vocabulary = 1 + fuzz.below(20), b.route_scale = 1.5f;
    int64_t *table = reinterpret_cast<int64_t *>(held.raw(8 * b.vocabulary * b.topk));
    for (int64_t i = 0; i < b.vocabulary * b.topk; i++) table[i] = fuzz.below(b.num_experts);
    if (fuzz.below(2)) b.gate_bias = held.floats(b.num_experts);
    else b.gate_table = table;
    return b;
}

// Rows of floats of a compressor's tail, at most as many as its ring holds.
inline int64_t tail_values(const wf_block &b, int64_t dim, int64_t rows) {
    return rows * 2 * dim * (b.overlap ? 2 : 1);
}

// What rings take of `tokens` tokens: bytes of the window's rows, values of the tails.
struct StagedSizes {
    int64_t window, tail = 0, key_tail = 0;

    StagedSizes(const wf_block &b, const wf_view &view, int64_t tokens) {
        const int64_t row_bytes = record_bytes(view.window.form, b.head_dim, b.rope_dim);
        window = std::min(tokens, view.window.bytes / row_bytes) * row_bytes;
        if (b.ratio) tail = tail_values(b, b.entries.dim, std::min(tokens, view.tail_rows));
        if (b.index_heads) key_tail = tail_values(b, b.keys.dim, std::min(tokens, view.key_tail_rows));
    }
};

inline wf_staged staged_of(Held &held, const wf_block &b, const wf_view &view, int64_t tokens) {
    const StagedSizes sizes(b, view, tokens);
    wf_staged staged = {held.raw(sizes.window), nullptr, nullptr};
    if (b.ratio) staged.tail = held.floats(sizes.tail);
    if (b.index_heads) staged.key_tail = held.floats(sizes.key_tail);
    return staged;
}

// New tokens of a sequence, its cache in one layer, and where new rows go: into the rings, or into buffers of their size.
// Of some spans a part's last rows are wanted too.
inline wf_span span_of(Held &held, const wf_block &b, wf_view &view, wf_staged &staged, wf_staged &marked) {
    Fuzz &fuzz = held.fuzz;
    wf_span span = {fuzz.below(2) ? fuzz.below(200) : 0,
                    fuzz.below(3) ? 1 + fuzz.below(4) : 1 + fuzz.below(40),
                    &view,
                    fuzz.below(2) ? &staged : nullptr,
                    fuzz.below(2) ? &marked : nullptr,
                    0,
                    nullptr};
    span.mark = 1 + fuzz.below(span.tokens);
    view = {};
    const bool packed = fuzz.below(2);
    const int64_t ring = b.window + fuzz.below(20), reach = b.ratio * (b.overlap ? 2 : 1) + fuzz.below(9);
    view.window = rows_of(held, packed ? WF_ROWS_KV : WF_ROWS_BF16, b.head_dim, b.rope_dim, ring, false);
    if (b.ratio) {
        const int64_t entries = (span.position + span.tokens) / b.ratio;
        view.entries = rows_of(held, packed ? WF_ROWS_KV : WF_ROWS_BF16, b.head_dim, b.rope_dim, entries, true);
        view.tail = held.floats(tail_values(b, b.entries.dim, reach)), view.tail_rows = reach;
        if (b.index_heads) {
            view.keys = rows_of(held, packed ? WF_ROWS_INDEX : WF_ROWS_BF16, b.keys.dim, b.rope_dim, entries, true);
            view.key_tail = held.floats(tail_values(b, b.keys.dim, reach)), view.key_tail_rows = reach;
        }
    }
    staged = staged_of(held, b, view, span.tokens), marked = staged_of(held, b, view, span.mark);
    return span;
}

// An expert of any width; `id` -1: shared.
inline wf_expert expert_of(Held &held, int64_t id, int64_t hidden) {
    const int64_t inter = 1 + held.fuzz.below(150);
    return {id, held.matrix(inter, hidden), held.matrix(hidden, inter), held.matrix(inter, hidden)};
}

// What an adapter adds beside a matrix, of any rank from 0 on.
inline wf_low_rank low_rank_of(Held &held, const wf_matrix &matrix) {
    const int64_t rank = held.fuzz.below(4) ? held.fuzz.below(12) : 0;
    if (!rank) return {};
    const bool wide = held.fuzz.below(2);
    const auto values = [&](int64_t count) -> const void * {
        return wide ? static_cast<const void *>(held.floats(count)) : held.bf16(count);
    };
    const int64_t size = wide ? 4 : 2, down = rank * matrix.columns, up = rank * matrix.rows;
    return {wide ? WF_FP32 : WF_BF16, rank, 0.25f, values(down), values(up), size * down, size * up};
}

// An adapter beside a layer, its shared expert and, sometimes, the routed ones, by number.
inline wf_adapter adapter_of(Held &held, const wf_block *block, const wf_expert *shared, const wf_expert *routed,
                             int64_t count) {
    wf_adapter adapter = {};
    if (block) {
        adapter.wq_a = low_rank_of(held, block->wq_a), adapter.wq_b = low_rank_of(held, block->wq_b);
        adapter.wkv = low_rank_of(held, block->wkv), adapter.wo_b = low_rank_of(held, block->wo_b);
    }
    if (shared) {
        adapter.w1 = low_rank_of(held, shared->w1), adapter.w2 = low_rank_of(held, shared->w2);
        adapter.w3 = low_rank_of(held, shared->w3);
    }
    if (!count || held.fuzz.below(2)) return adapter;
    wf_low_rank *parts = reinterpret_cast<wf_low_rank *>(held.raw(3 * count * int64_t(sizeof(wf_low_rank))));
    for (int64_t e = 0; e < count; e++) {
        const wf_matrix *matrices[] = {&routed[e].w1, &routed[e].w2, &routed[e].w3};
        for (int64_t which = 0; which < 3; which++) parts[3 * e + which] = low_rank_of(held, *matrices[which]);
    }
    adapter.experts = parts;
    return adapter;
}
