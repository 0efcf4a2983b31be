// Random calls of a block's attention half and of experts. Every call is repeated with one argument spoiled, and must be
// refused.
#include "fuzz_model.h"

bool fuzz_block(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const wf_block b = block_of(held, 1 + fuzz.below(70), 1 + fuzz.below(4), 0);
    const int64_t all = b.streams * b.hidden;
    std::vector<wf_span> spans(size_t(1 + fuzz.below(3)));
    std::vector<wf_view> views(spans.size());
    std::vector<wf_staged> staged(spans.size()), marked(spans.size());
    int64_t tokens = 0;
    for (size_t s = 0; s < spans.size(); s++) {
        spans[s] = span_of(held, b, views[s], staged[s], marked[s]);
        tokens += spans[s].tokens;
    }
    wf_adapter adapter = adapter_of(held, &b, nullptr, nullptr, 0);
    if (fuzz.below(2)) spans[fuzz.below(2) ? 0 : spans.size() - 1].adapter = &adapter;
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(tokens)]), chosen(new int64_t[size_t(tokens * b.topk)]);
    for (int64_t i = 0; i < tokens; i++) ids[size_t(i)] = fuzz.below(b.vocabulary);
    const uint16_t *streams = held.bf16(tokens * all);
    auto out = fuzz.values<uint16_t>(tokens * all), h = fuzz.values<uint16_t>(tokens * b.hidden);
    auto post = fuzz.values<float>(tokens * b.streams), comb = fuzz.values<float>(tokens * b.streams * b.streams);
    auto route = fuzz.values<float>(tokens * b.topk);
    std::vector<wf_range> next = ranges(fuzz);
    int64_t num_next = int64_t(next.size());
    const auto call = [&](const wf_block &block, int64_t count) {
        return wf_block_attention(fuzz.runtime(), &block, 0, count, spans.data(), ids.get(), streams, out.get(),
                                  h.get(), post.get(), comb.get(), route.get(), chosen.get(), next.data(), num_next);
    };
    if (const int error = call(b, int64_t(spans.size())))
        return fuzz.message = "block: error " + std::to_string(error), false;
    for (int64_t i = 0; i < tokens * b.topk; i++)
        if (chosen[size_t(i)] < 0 || chosen[size_t(i)] >= b.num_experts)
            return fuzz.message = "block: no such expert", false;
    if (held.tame && !(finite(out.get(), tokens * all) && finite(h.get(), tokens * b.hidden)))
        return fuzz.message = "block: not finite", false;

    wf_block bad = b;
    const wf_span span = spans[0];
    const wf_view view = views[0];
    int64_t count = int64_t(spans.size());
    switch (fuzz.below(19)) {
        case 0: bad.hidden = b.hidden + 1; break;
        case 1: bad.heads = -b.heads; break;
        case 2: bad.head_dim += 2; break;
        case 3: bad.rope_dim = b.head_dim + 2; break;
        case 4: bad.streams = 9; break;
        case 5: bad.topk = b.num_experts + 1; break;
        case 6: bad.wo_b.codes_bytes--; break;
        case 7: bad.sink = nullptr; break;
        case 8: bad.groups = 0; break;
        case 9: spans[0].position = -1; break;
        case 10: spans[0].tokens = 0; break;
        case 11: views[0].window.bytes = 0; break;
        case 12: count = 0; break;
        case 13:
            if (b.ratio) views[0].tail_rows = b.ratio * (b.overlap ? 2 : 1) - 1;
            else bad.index_heads = 1;
            break;
        case 14:
            if (b.ratio) views[0].tail = nullptr;
            else bad.iters = 0;
            break;
        case 15:
            if (fuzz.below(2)) num_next = -1;
            else if (fuzz.below(2)) spans[0].views = nullptr;
            else spans[0].marked = &marked[0], spans[0].mark = fuzz.below(2) ? 0 : spans[0].tokens + 1;
            break;
        case 17: spans[0].adapter = &adapter, adapter.wkv = {WF_FP8, 1, 1, streams, streams, 1, 1}; break;
        case 16: next.assign(1, {&b, -1}), num_next = 1; break;
        default:
            if (!b.gate_bias) ids[0] = b.vocabulary;
            else bad.gate_bias = nullptr;
    }
    const bool refused = call(bad, count) != WF_OK;
    spans[0] = span, views[0] = view;
    if (!refused) fuzz.message = "block: a bad argument was taken";
    return refused;
}

bool fuzz_experts(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const int64_t tokens = fuzz.below(3) ? 1 + fuzz.below(12) : 1 + fuzz.below(90), hidden = 1 + fuzz.below(300);
    const int64_t count = 1 + fuzz.below(6), topk = 1 + fuzz.below(count);
    std::vector<wf_expert> experts;
    for (int64_t e = 0; e < count; e++) experts.push_back(expert_of(held, e + 1 == count ? -1 : e, hidden));
    std::unique_ptr<int64_t[]> chosen(new int64_t[size_t(tokens * topk)]);
    for (int64_t i = 0; i < tokens * topk; i++) chosen[size_t(i)] = fuzz.below(count + 2) - 1;  // some name nobody
    const uint16_t *h = held.bf16(tokens * hidden);
    const float *route = held.floats(tokens * topk);
    auto out = fuzz.values<uint16_t>(tokens * hidden);
    const int32_t released = int32_t(fuzz.below(2));
    std::vector<wf_range> next = ranges(fuzz);
    int64_t num_next = int64_t(next.size());
    std::vector<wf_adapter> adapters;
    for (int64_t a = 0; a < 3; a++)
        adapters.push_back(adapter_of(held, nullptr, &experts.back(), experts.data(), count - 1));
    std::vector<wf_adapted> adapted;
    for (int64_t first = fuzz.below(3); first < tokens && adapted.size() < 3;) {
        const int64_t rows = 1 + fuzz.below(tokens - first);
        adapted.push_back({first, rows, &adapters[adapted.size()]});
        first += rows + fuzz.below(2);
    }
    const auto call = [&](int64_t n, int64_t k, int64_t some) {
        return wf_experts(fuzz.runtime(), n, hidden, h, k, chosen.get(), route, experts.data(), some, 10, released,
                          nullptr, out.get(), next.data(), num_next, adapted.data(), int64_t(adapted.size()));
    };
    if (const int error = call(tokens, topk, count))
        return fuzz.message = "experts: error " + std::to_string(error), false;
    auto parts = fuzz.values<uint16_t>(tokens * hidden);
    std::unique_ptr<float[]> sum(new float[size_t(tokens * hidden)]());
    for (int64_t e = 0, many; e < count; e += many) {
        many = 1 + fuzz.below(count - e);
        const bool last = e + many == count;
        if (wf_experts(fuzz.runtime(), tokens, hidden, h, topk, chosen.get(), route, &experts[size_t(e)], many, 10,
                       released, sum.get(), last ? parts.get() : nullptr, next.data(), num_next, adapted.data(),
                       int64_t(adapted.size())))
            return fuzz.message = "experts in parts: an error", false;
    }
    for (int64_t i = 0; i < tokens * hidden; i++)  // NaN may differ in its bits
        if (parts[size_t(i)] != out[size_t(i)] &&
            !(std::isnan(bf16_value(parts[size_t(i)])) && std::isnan(bf16_value(out[size_t(i)]))))
            return fuzz.message = "experts in parts: " + std::to_string(i) + " differs", false;
    if (held.tame && !finite(out.get(), tokens * hidden)) return fuzz.message = "experts: not finite", false;
    bool refused;
    switch (fuzz.below(8)) {
        case 6: adapted.assign(1, {0, tokens + 1, &adapters[0]}), refused = call(tokens, topk, count); break;
        case 7:
            adapters[0].w1 = {WF_BF16, 1, 1, h, h, 2 * hidden + 2, 2 * experts.back().w1.rows};
            adapted.assign(1, {0, tokens, &adapters[0]}), refused = call(tokens, topk, count);
            break;
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
