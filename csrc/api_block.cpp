// The C interface of a block's halves: every size is checked here, before a cache is written to.
#include <new>
#include <vector>

#include "api.h"
#include "attention_half.h"
#include "experts.h"

using namespace wf;

namespace {

constexpr int64_t MOST_EXPERTS = 1 << 12;

// The checked form of rows with adapters, beside these experts.
int check_rows_adapted(const wf_adapted *given, int64_t count, int64_t tokens, const std::vector<Expert> &experts,
                       std::vector<Adapted> &adapted) {
    if (count < 0 || count > MOST_SPANS) return WF_ERROR_SHAPE;
    if (count && !given) return WF_ERROR_NULL;
    int64_t end = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!given[i].adapter) return WF_ERROR_NULL;
        if (given[i].first < end || bad(given[i].rows, tokens) || given[i].first > tokens - given[i].rows)
            return WF_ERROR_SHAPE;
        end = given[i].first + given[i].rows;
        adapted.push_back({given[i].first, given[i].rows, {}, i});
        Adapter &adapter = adapted.back().adapter;
        adapter.experts = given[i].adapter->experts;
        for (const Expert &expert : experts)
            if (expert.id < 0)
                if (const int error = check_shared_adapter(*given[i].adapter, expert, adapter)) return error;
    }
    return check_expert_adapters(adapted, experts);
}

}  // namespace

extern "C" {

int wf_block_attention(wf_runtime *runtime, const wf_block *given, int64_t layer, int64_t num_spans,
                       const wf_span *given_spans, const int64_t *ids, const uint16_t *streams, uint16_t *out,
                       uint16_t *h, float *post, float *comb, float *route, int64_t *chosen, const wf_range *next,
                       int64_t num_next) {
    if (!runtime || !given || !ids || !streams || !out || !h || !post || !comb || !route || !chosen)
        return WF_ERROR_NULL;
    if (layer < 0 || layer >= MOST_LAYERS) return WF_ERROR_SHAPE;
    if (const int error = check_ranges(next, num_next)) return error;
    Block block;
    if (const int error = check_block(*given, block)) return error;
    try {
        std::vector<Span> spans;
        int64_t tokens;
        if (const int error = check_spans(given_spans, num_spans, *given, layer, spans, tokens)) return error;
        if (const int error = check_table(*given, ids, tokens)) return error;
        std::vector<Adapted> adapted;
        if (const int error = check_adapted(given_spans, num_spans, layer, block, adapted)) return error;
        const Call inside(*runtime);
        const Passed pass = {ids, streams, out, h, post, comb, route, chosen, &adapted};
        const bool done = attention_half(*runtime, block, spans.data(), num_spans, tokens, pass, {next, num_next});
        return done ? WF_OK : WF_ERROR_MEMORY;
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

int wf_experts(wf_runtime *runtime, int64_t tokens, int64_t hidden, const uint16_t *h, int64_t topk,
               const int64_t *chosen, const float *route, const wf_expert *given, int64_t count, float limit,
               int32_t released, float *sum, uint16_t *out, const wf_range *next, int64_t num_next,
               const wf_adapted *given_adapted, int64_t num_adapted) {
    if (!runtime || !h || !chosen || !route || !given || (!out && !sum)) return WF_ERROR_NULL;
    if (bad(tokens, MOST_TOKENS) || bad(hidden, 1 << 20) || bad(topk, 1 << 10) || bad(count, MOST_EXPERTS))
        return WF_ERROR_SHAPE;
    if (const int error = check_ranges(next, num_next)) return error;
    try {
        std::vector<Expert> experts(size_t(count), Expert{});
        for (int64_t e = 0; e < count; e++)
            if (const int error = check_expert(given[e], hidden, experts[size_t(e)])) return error;
        std::vector<Adapted> adapted;
        if (const int error = check_rows_adapted(given_adapted, num_adapted, tokens, experts, adapted)) return error;
        const Call inside(*runtime);
        const Mix mix = {tokens, hidden, topk, h, chosen, route, limit, released != 0, sum, out, &adapted};
        return mix_experts(*runtime, mix, experts, {next, num_next}) ? WF_OK : WF_ERROR_MEMORY;
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

}  // extern "C"
