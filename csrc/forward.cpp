// A whole pass in one call, for a model whose experts are all in memory.
//
//   ids -> embedding, J equal streams -> each layer: attention half, experts, back onto the streams -> last collapse, norm
//       -> logits of the tokens that are wanted
//
// An MTP module is a model of one layer that gets other streams: the embedding of the next token, and those of this one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "api.h"
#include "attention_half.h"
#include "experts.h"
#include "forward.h"
#include "gguf.h"
#include "hyper.h"
#include "rowwise.h"

namespace wf {
namespace {

struct Layer {
    Block block;
    std::vector<Span> spans;
    std::vector<Adapted> adapted;
    Expert shared;
};

// How an MTP module's streams come in.
struct Projections {
    Matrix e_proj, h_proj;
    const uint16_t *enorm, *hnorm;
};

struct Forward {
    const wf_model &model;
    std::vector<Layer> layers;
    Matrix embedding, head_fn, head;
    int64_t hidden = 0, streams = 0, topk = 0, tokens = 0;

    explicit Forward(const wf_model &given) : model(given) {}

    // WF_OK and everything in its checked form, or an error code.
    int check(int64_t num_spans, const wf_span *spans, const int64_t *ids) {
        if (!model.blocks || !model.experts || !model.shared || !model.head_base || !model.head_scale || !model.norm)
            return WF_ERROR_NULL;
        if (bad(model.layers, MOST_LAYERS)) return WF_ERROR_SHAPE;
        layers.resize(size_t(model.layers));
        for (int64_t l = 0; l < model.layers; l++)
            if (const int error = check_layer(l, num_spans, spans, ids)) return error;
        if (const int error = check_matrix(&model.embedding, embedding)) return error;
        if (const int error = check_matrix(&model.head_fn, head_fn)) return error;
        if (const int error = check_matrix(&model.head, head)) return error;
        if (embedding.form < WF_BF16 || embedding.columns != hidden || head.columns != hidden) return WF_ERROR_SHAPE;
        if (head_fn.rows != streams || head_fn.columns != streams * hidden) return WF_ERROR_SHAPE;
        for (int64_t i = 0; i < tokens; i++)
            if (ids[i] < 0 || ids[i] >= embedding.rows) return WF_ERROR_SHAPE;
        return WF_OK;
    }

    int check_layer(int64_t l, int64_t num_spans, const wf_span *given, const int64_t *ids) {
        Layer &layer = layers[size_t(l)];
        if (!model.blocks[l] || !model.experts[l]) return WF_ERROR_NULL;
        const wf_block &block = *model.blocks[l];
        if (const int error = check_block(block, layer.block)) return error;
        if (const int error = check_expert(model.shared[l], block.hidden, layer.shared)) return error;
        if (layer.shared.id >= 0) return WF_ERROR_SHAPE;
        if (l == 0) hidden = block.hidden, streams = block.streams, topk = block.topk;
        if (block.hidden != hidden || block.streams != streams || block.topk != topk) return WF_ERROR_SHAPE;
        if (const int error = check_spans(given, num_spans, block, l, layer.spans, tokens)) return error;
        if (const int error = check_adapted(given, num_spans, l, layer.block, layer.adapted)) return error;
        for (Adapted &rows : layer.adapted)
            if (const int error = check_shared_adapter(given[rows.span].adapter[l], layer.shared, rows.adapter))
                return error;
        return check_table(block, ids, tokens);
    }

    void embed(int64_t id, uint16_t *row) const {
        if (embedding.form == WF_BF16) std::memcpy(row, embedding.codes + id * 2 * hidden, size_t(2 * hidden));
        else if (is_blocks(embedding.form)) decode_rows(embedding, id, id + 1, row);
        else
            for (int64_t k = 0; k < hidden; k++) row[k] = float_to_bf16(value_at(embedding, id, k));
    }

    void embed_all(const int64_t *ids, uint16_t *to) const {
        for (int64_t i = 0; i < tokens; i++) {
            uint16_t *row = to + i * streams * hidden;
            embed(ids[i], row);
            for (int64_t j = 1; j < streams; j++) std::memcpy(row + j * hidden, row, size_t(2 * hidden));
        }
    }

    // The streams that an MTP module's layer gets: e_proj(enorm(embedding)) + h_proj(hnorm(given)), rounded once more.
    bool combine(Runtime &runtime, const Projections &by, const int64_t *following, const uint16_t *given,
                 uint16_t *normed_e, uint16_t *e, uint16_t *normed_h, uint16_t *to) const {
        const wf_block &block = *model.blocks[0];
        const int64_t rows = tokens * streams;
        runtime.each(tokens, [&](int64_t i, int) {
            uint16_t *row = normed_e + i * hidden;
            embed(following[i], row);
            rms_norm(row, by.enorm, hidden, block.norm_eps, row);
            for (int64_t j = i * streams; j < (i + 1) * streams; j++)
                rms_norm(given + j * hidden, by.hnorm, hidden, block.norm_eps, normed_h + j * hidden);
        });
        const bool released = block.released != 0;
        const Product products[] = {
            {by.e_proj, normed_e, tokens, hidden, released && rounds_x(by.e_proj.form), nullptr, e, hidden},
            {by.h_proj, normed_h, rows, hidden, released && rounds_x(by.h_proj.form), nullptr, to, hidden}};
        if (!multiply(runtime, products, 2, first_of(0))) return false;
        runtime.each(rows, [&](int64_t j, int) {
            uint16_t *row = to + j * hidden;
            const uint16_t *more = e + j / streams * hidden;
            for (int64_t k = 0; k < hidden; k++) row[k] = float_to_bf16(bf16_to_float(row[k]) + bf16_to_float(more[k]));
        });
        return true;
    }

    // What a layer reads first.
    Ahead first_of(int64_t l) const {
        if (l >= model.layers) return {};
        const Block &block = layers[size_t(l)].block;
        return {&block.attention.fn, &block.wq_a, &block.wkv};
    }

    // The experts that tokens chose, ascending, then the shared one; or an error code.
    int experts_of(int64_t l, const int64_t *chosen, std::vector<Expert> &experts) const {
        const Layer &layer = layers[size_t(l)];
        std::vector<bool> used(size_t(layer.block.given->num_experts));
        for (int64_t i = 0; i < tokens * topk; i++) used[size_t(chosen[i])] = true;
        experts.clear();
        for (size_t e = 0; e < used.size(); e++) {
            if (!used[e]) continue;
            experts.emplace_back();
            if (model.experts[l][e].id != int64_t(e)) return WF_ERROR_SHAPE;
            if (const int error = check_expert(model.experts[l][e], hidden, experts.back())) return error;
        }
        experts.push_back(layer.shared);
        return check_expert_adapters(layer.adapted, experts);
    }

    // Whether what is wanted is there, and has a place to go to.
    int check_wanted(const wf_wanted &wanted) const {
        if (wanted.num_logits < 0 || wanted.num_logits > MOST_TOKENS) return WF_ERROR_SHAPE;
        if (wanted.num_streams < 0 || wanted.num_streams > MOST_TOKENS) return WF_ERROR_SHAPE;
        if (wanted.num_logits && (!wanted.logits_of || !wanted.logits)) return WF_ERROR_NULL;
        if (wanted.num_streams && (!wanted.streams_of || !wanted.streams)) return WF_ERROR_NULL;
        const auto there = [&](int64_t row) { return row >= 0 && row < tokens; };
        return std::all_of(wanted.logits_of, wanted.logits_of + wanted.num_logits, there) &&
                       std::all_of(wanted.streams_of, wanted.streams_of + wanted.num_streams, there)
                   ? WF_OK
                   : WF_ERROR_SHAPE;
    }

    // With `module`, `given` are the streams of its input and `ids` the tokens that follow.
    int run(Runtime &runtime, const int64_t *ids, const Projections *module, const uint16_t *given,
            const wf_wanted &wanted) {
        uint16_t *const hidden_out = wanted.hidden;
        uint16_t *x, *mixed, *h, *made, *last, *some;
        float *post, *comb, *route, *mixes;
        int64_t *chosen;
        const auto lay_out = [&](Arena arena) {
            x = arena.take<uint16_t>(tokens * streams * hidden);
            mixed = arena.take<uint16_t>(tokens * streams * hidden);
            h = arena.take<uint16_t>(tokens * hidden);
            made = arena.take<uint16_t>(tokens * hidden);
            last = arena.take<uint16_t>(tokens * hidden);
            some = arena.take<uint16_t>(wanted.num_logits * hidden);
            post = arena.take<float>(tokens * streams);
            comb = arena.take<float>(tokens * streams * streams);
            route = arena.take<float>(tokens * topk);
            mixes = arena.take<float>(2 * tokens * streams);
            chosen = arena.take<int64_t>(tokens * topk);
            return arena.used();
        };
        void *memory = runtime.scratch(lay_out(Arena(nullptr)), 2);
        if (!memory) return WF_ERROR_MEMORY;
        lay_out(Arena(memory));
        if (!module) embed_all(ids, x);
        else if (!combine(runtime, *module, ids, given, made, last, mixed, x)) return WF_ERROR_MEMORY;
        std::vector<Expert> experts;
        for (int64_t l = 0; l < model.layers; l++) {
            const Layer &layer = layers[size_t(l)];
            const Passed pass = {ids, x, mixed, h, post, comb, route, chosen, &layer.adapted};
            const int64_t num_spans = int64_t(layer.spans.size());
            if (!attention_half(runtime, layer.block, layer.spans.data(), num_spans, tokens, pass,
                                {&layer.shared.w1, &layer.shared.w3}))
                return WF_ERROR_MEMORY;
            if (const int error = experts_of(l, chosen, experts)) return error;
            const bool released = layer.block.given->released != 0;
            const Mix mix = {tokens,      hidden,   topk,    h,    chosen,        route,
                             model.limit, released, nullptr, made, &layer.adapted};
            if (!mix_experts(runtime, mix, experts, first_of(l + 1))) return WF_ERROR_MEMORY;
            runtime.each(tokens,
                         [&](int64_t i, int) { hc_expand({made, mixed, post, comb, int(streams), hidden, x}, i); });
        }
        const int64_t all = streams * hidden;
        for (int64_t i = 0; i < wanted.num_streams; i++)
            std::memcpy(wanted.streams + i * all, x + wanted.streams_of[i] * all, size_t(2 * all));
        if (!wanted.num_logits && !hidden_out) return WF_OK;
        uint16_t *const out = hidden_out ? hidden_out : last;
        const wf_block &block = *model.blocks[0];
        if (!collapse(runtime, {head_fn, model.head_base, model.head_scale, block.hc_eps, block.norm_eps}, x, tokens,
                      streams, hidden, mixes, out))
            return WF_ERROR_MEMORY;
        runtime.each(tokens, [&](int64_t i, int) {
            rms_norm(out + i * hidden, model.norm, hidden, block.norm_eps, out + i * hidden);
        });
        if (!wanted.num_logits) return WF_OK;
        for (int64_t i = 0; i < wanted.num_logits; i++)
            std::memcpy(some + i * hidden, out + wanted.logits_of[i] * hidden, size_t(2 * hidden));
        const Product product = {head, some, wanted.num_logits, hidden, false, wanted.logits, nullptr, head.rows};
        return multiply(runtime, &product, 1) ? WF_OK : WF_ERROR_MEMORY;
    }
};

}  // namespace

bool collapse(Runtime &runtime, const Head &head, const uint16_t *x, int64_t tokens, int64_t streams, int64_t hidden,
              float *mixes, uint16_t *out) {
    const int64_t all = streams * hidden;
    float *const pre = mixes + tokens * streams;
    const Product product = {head.fn, x, tokens, all, false, mixes, nullptr, streams};
    if (!multiply(runtime, &product, 1)) return false;
    runtime.each(tokens, [&](int64_t i, int) {
        const float factor = 1 / std::sqrt(sum_squares(x + i * all, all) / float(all) + head.norm_eps);
        hc_head(mixes + i * streams, factor, head.base, *head.scale, head.eps, int(streams), pre + i * streams);
        hc_collapse({x, pre, int(streams), hidden, out}, i);
    });
    return true;
}

}  // namespace wf

using namespace wf;

extern "C" {

int wf_forward(wf_runtime *runtime, const wf_model *model, int64_t num_spans, const wf_span *spans, const int64_t *ids,
               const wf_wanted *wanted) {
    if (!runtime || !model || !spans || !ids || !wanted) return WF_ERROR_NULL;
    try {
        Forward forward(*model);
        if (const int error = forward.check(num_spans, spans, ids)) return error;
        if (const int error = forward.check_wanted(*wanted)) return error;
        const Call inside(*runtime);
        return forward.run(*runtime, ids, nullptr, nullptr, *wanted);
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

int wf_mtp(wf_runtime *runtime, const wf_mtp_module *module, int64_t num_spans, const wf_span *spans,
           const int64_t *following, const uint16_t *streams, const wf_wanted *wanted) {
    if (!runtime || !module || !spans || !following || !streams || !wanted) return WF_ERROR_NULL;
    if (!module->enorm || !module->hnorm) return WF_ERROR_NULL;
    if (module->model.layers != 1) return WF_ERROR_SHAPE;
    try {
        Forward forward(module->model);
        if (const int error = forward.check(num_spans, spans, following)) return error;
        if (const int error = forward.check_wanted(*wanted)) return error;
        Projections by = {{}, {}, module->enorm, module->hnorm};
        if (const int error = check_matrix(&module->e_proj, by.e_proj)) return error;
        if (const int error = check_matrix(&module->h_proj, by.h_proj)) return error;
        for (const Matrix *matrix : {&by.e_proj, &by.h_proj})
            if (matrix->rows != forward.hidden || matrix->columns != forward.hidden) return WF_ERROR_SHAPE;
        const Call inside(*runtime);
        return forward.run(*runtime, following, &by, streams, *wanted);
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

}  // extern "C"
