// Random calls of a block's attention half and of experts: small models of every shape, runs of several sequences, caches in
// buffers of exactly their size. Half of the calls hold random bytes, where nothing may fault; in the others what comes out
// must be finite. Every call is repeated with one argument spoiled, and must be refused.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "fuzz.h"

namespace {

bool finite(const uint16_t *values, int64_t count) {
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
std::vector<wf_span> spans(Fuzz &fuzz) {
    std::vector<wf_span> made(size_t(fuzz.below(20)));
    for (wf_span &span : made) {
        const void *at = fuzz.below(2) ? static_cast<const void *>(&fuzz) : nullptr;
        span = {at, int64_t(fuzz.below(2) ? fuzz.below(100000) : (int64_t(1) << 62))};
    }
    return made;
}

int64_t record_bytes(int form, int64_t dim, int64_t rope_dim) {
    const int64_t nope = dim - rope_dim;
    if (form == WF_ROWS_KV) return (nope + 2 * rope_dim + (nope + 63) / 64 + 7) / 8 * 8;
    return form == WF_ROWS_INDEX ? dim / 2 + (dim + 31) / 32 : 2 * dim;
}

// `count` rows in blocks, or a ring where there is no table. Zeros are rows of every form.
wf_rows rows_of(Held &held, int form, int64_t dim, int64_t rope_dim, int64_t count, bool paged) {
    Fuzz &fuzz = held.fuzz;
    const int64_t in_block = 1 + fuzz.below(9), blocks = (count + in_block - 1) / in_block;
    const int64_t num_rows = paged ? (blocks + 1) * in_block : count;
    wf_rows rows = {form, dim, rope_dim, nullptr, num_rows * record_bytes(form, dim, rope_dim), nullptr, 0, in_block};
    rows.base = held.raw(rows.bytes);
    if (held.tame) std::memset(rows.base, 0, size_t(rows.bytes));
    if (!paged) return rows;
    int64_t *table = reinterpret_cast<int64_t *>(held.raw(8 * (blocks + !blocks)));
    for (int64_t i = 0; i < blocks; i++) table[i] = fuzz.below(blocks + 1);
    rows.table = table, rows.table_blocks = blocks;
    return rows;
}

int64_t even(Fuzz &fuzz, int64_t most) { return 2 + 2 * fuzz.below(most / 2); }

}  // namespace

bool fuzz_block(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    wf_block b = {};
    b.released = int32_t(fuzz.below(2)), b.hidden = 1 + fuzz.below(70), b.streams = 1 + fuzz.below(4),
    b.iters = 1 + int32_t(fuzz.below(3));
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
    b.num_experts = 1 + fuzz.below(9), b.topk = 1 + fuzz.below(b.num_experts),
    b.gate = held.matrix(b.num_experts, b.hidden);
    b.vocabulary = 1 + fuzz.below(20), b.route_scale = 1.5f;
    int64_t *table = reinterpret_cast<int64_t *>(held.raw(8 * b.vocabulary * b.topk));
    for (int64_t i = 0; i < b.vocabulary * b.topk; i++) table[i] = fuzz.below(b.num_experts);
    if (fuzz.below(2)) b.gate_bias = held.floats(b.num_experts);
    else b.gate_table = table;

    std::vector<wf_run> runs(size_t(1 + fuzz.below(3)));
    int64_t tokens = 0;
    for (wf_run &run : runs) {
        run = {};
        run.position = fuzz.below(2) ? fuzz.below(200) : 0,
        run.tokens = fuzz.below(3) ? 1 + fuzz.below(4) : 1 + fuzz.below(40);
        const bool packed = fuzz.below(2);
        const int64_t ring = b.window + fuzz.below(20), reach = b.ratio * (b.overlap ? 2 : 1) + fuzz.below(9);
        run.window = rows_of(held, packed ? WF_ROWS_KV : WF_ROWS_BF16, b.head_dim, b.rope_dim, ring, false);
        if (fuzz.below(2))
            run.new_window =
                held.raw(std::min(run.tokens, ring) * record_bytes(run.window.form, b.head_dim, b.rope_dim));
        tokens += run.tokens;
        if (!b.ratio) continue;
        const int64_t entries = (run.position + run.tokens) / b.ratio;
        run.entries = rows_of(held, packed ? WF_ROWS_KV : WF_ROWS_BF16, b.head_dim, b.rope_dim, entries, true);
        run.tail = held.floats(reach * 2 * b.entries.dim * (b.overlap ? 2 : 1)), run.tail_rows = reach;
        if (fuzz.below(2))
            run.new_tail = held.floats(std::min(run.tokens, reach) * 2 * b.entries.dim * (b.overlap ? 2 : 1));
        if (!b.index_heads) continue;
        run.keys = rows_of(held, packed ? WF_ROWS_INDEX : WF_ROWS_BF16, index_dim, b.rope_dim, entries, true);
        run.key_tail = held.floats(reach * 2 * index_dim * (b.overlap ? 2 : 1)), run.key_tail_rows = reach;
        if (fuzz.below(2))
            run.new_key_tail = held.floats(std::min(run.tokens, reach) * 2 * index_dim * (b.overlap ? 2 : 1));
    }
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(tokens)]), chosen(new int64_t[size_t(tokens * b.topk)]);
    for (int64_t i = 0; i < tokens; i++) ids[size_t(i)] = fuzz.below(b.vocabulary);
    const uint16_t *streams = held.bf16(tokens * all);
    auto out = fuzz.values<uint16_t>(tokens * all), h = fuzz.values<uint16_t>(tokens * b.hidden);
    auto post = fuzz.values<float>(tokens * b.streams), comb = fuzz.values<float>(tokens * b.streams * b.streams);
    auto route = fuzz.values<float>(tokens * b.topk);
    std::vector<wf_span> next = spans(fuzz);
    int64_t num_next = int64_t(next.size());
    const auto call = [&](const wf_block &block, int64_t count) {
        return wf_block_attention(fuzz.runtime(), &block, count, runs.data(), ids.get(), streams, out.get(), h.get(),
                                  post.get(), comb.get(), route.get(), chosen.get(), next.data(), num_next);
    };
    if (const int error = call(b, int64_t(runs.size())))
        return fuzz.message = "block: error " + std::to_string(error), false;
    for (int64_t i = 0; i < tokens * b.topk; i++)
        if (chosen[size_t(i)] < 0 || chosen[size_t(i)] >= b.num_experts)
            return fuzz.message = "block: no such expert", false;
    if (held.tame && !(finite(out.get(), tokens * all) && finite(h.get(), tokens * b.hidden)))
        return fuzz.message = "block: not finite", false;

    wf_block bad = b;
    const wf_run run = runs[0];
    int64_t count = int64_t(runs.size());
    switch (fuzz.below(18)) {
        case 0: bad.hidden = b.hidden + 1; break;
        case 1: bad.heads = -b.heads; break;
        case 2: bad.head_dim += 2; break;
        case 3: bad.rope_dim = b.head_dim + 2; break;
        case 4: bad.streams = 9; break;
        case 5: bad.topk = b.num_experts + 1; break;
        case 6: bad.wo_b.codes_bytes--; break;
        case 7: bad.sink = nullptr; break;
        case 8: bad.groups = 0; break;
        case 9: runs[0].position = -1; break;
        case 10: runs[0].tokens = 0; break;
        case 11: runs[0].window.bytes = 0; break;
        case 12: count = 0; break;
        case 13:
            if (b.ratio) runs[0].tail_rows = b.ratio * (b.overlap ? 2 : 1) - 1;
            else bad.index_heads = 1;
            break;
        case 14:
            if (b.ratio) runs[0].tail = nullptr;
            else bad.iters = 0;
            break;
        case 15: num_next = -1; break;
        case 16: next.assign(1, {&b, -1}), num_next = 1; break;
        default:
            if (!b.gate_bias) ids[0] = b.vocabulary;
            else bad.gate_bias = nullptr;
    }
    const bool refused = call(bad, count) != WF_OK;
    runs[0] = run;
    if (!refused) fuzz.message = "block: a bad argument was taken";
    return refused;
}

bool fuzz_experts(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const int64_t tokens = fuzz.below(3) ? 1 + fuzz.below(12) : 1 + fuzz.below(90), hidden = 1 + fuzz.below(300);
    const int64_t count = 1 + fuzz.below(6), topk = 1 + fuzz.below(count);
    std::vector<wf_expert> experts;
    for (int64_t e = 0; e < count; e++) {
        const int64_t inter = 1 + fuzz.below(150);
        experts.push_back({e + 1 == count ? -1 : e, held.matrix(inter, hidden), held.matrix(hidden, inter),
                           held.matrix(inter, hidden)});
    }
    std::unique_ptr<int64_t[]> chosen(new int64_t[size_t(tokens * topk)]);
    for (int64_t i = 0; i < tokens * topk; i++) chosen[size_t(i)] = fuzz.below(count + 2) - 1;  // some name nobody
    const uint16_t *h = held.bf16(tokens * hidden);
    const float *route = held.floats(tokens * topk);
    auto out = fuzz.values<uint16_t>(tokens * hidden);
    const int32_t released = int32_t(fuzz.below(2));
    std::vector<wf_span> next = spans(fuzz);
    int64_t num_next = int64_t(next.size());
    const auto call = [&](int64_t n, int64_t k, int64_t some) {
        return wf_experts(fuzz.runtime(), n, hidden, h, k, chosen.get(), route, experts.data(), some, 10, released,
                          out.get(), next.data(), num_next);
    };
    if (const int error = call(tokens, topk, count))
        return fuzz.message = "experts: error " + std::to_string(error), false;
    if (held.tame && !finite(out.get(), tokens * hidden)) return fuzz.message = "experts: not finite", false;
    bool refused;
    switch (fuzz.below(6)) {
        case 0: refused = call(0, topk, count); break;
        case 1: refused = call(tokens, -1, count); break;
        case 2: refused = call(tokens, topk, 0); break;
        case 3: num_next = -1, refused = call(tokens, topk, count); break;
        case 4: experts[0].w2.rows++, refused = call(tokens, topk, count); break;
        default: experts[0].w3.codes = nullptr, refused = call(tokens, topk, count);
    }
    if (!refused) fuzz.message = "experts: a bad argument was taken";
    return refused;
}
