// Random passes of whole small models, and of MTP modules: the same on any threads, and with one argument spoiled.
#include "fuzz_model.h"

namespace {

struct Model {
    std::vector<wf_block> blocks;
    std::vector<std::vector<wf_expert>> experts;
    std::vector<wf_expert> shared;
    std::vector<const wf_block *> block_pointers;
    std::vector<const wf_expert *> expert_pointers;
    wf_model whole = {};

    Model(Held &held, int64_t hidden, int64_t streams, int64_t topk, int64_t layers) {
        Fuzz &fuzz = held.fuzz;
        for (int64_t l = 0; l < layers; l++) {
            blocks.push_back(block_of(held, hidden, streams, topk));
            blocks.back().released = blocks[0].released, blocks.back().vocabulary = blocks[0].vocabulary;
            if (!blocks.back().gate_bias) blocks.back().gate_bias = held.floats(blocks.back().num_experts);
            experts.emplace_back();
            for (int64_t e = 0; e < blocks.back().num_experts; e++)
                experts.back().push_back(expert_of(held, e, hidden));
            shared.push_back(expert_of(held, -1, hidden));
        }
        for (int64_t l = 0; l < layers; l++)
            block_pointers.push_back(&blocks[size_t(l)]), expert_pointers.push_back(experts[size_t(l)].data());
        const int64_t vocabulary = blocks[0].vocabulary;
        whole = {layers,
                 block_pointers.data(),
                 expert_pointers.data(),
                 shared.data(),
                 10,
                 held.matrix(vocabulary, hidden, fuzz.below(2) ? WF_BF16 : WF_FP32),
                 held.matrix(streams, streams * hidden, WF_FP32),
                 held.floats(streams),
                 held.floats(1),
                 held.bf16(hidden),
                 held.matrix(vocabulary, hidden, WF_BF16)};
    }
};

// New tokens of some sequences, the same position and tokens in each layer.
struct Sequences {
    std::vector<wf_span> spans;
    std::vector<std::vector<wf_view>> views;
    std::vector<std::vector<wf_staged>> staged, marked;
    int64_t tokens = 0;

    Sequences(Held &held, const Model &model) : spans(size_t(1 + held.fuzz.below(3))) {
        Fuzz &fuzz = held.fuzz;
        const size_t layers = size_t(model.whole.layers);
        views.resize(spans.size()), staged.resize(spans.size()), marked.resize(spans.size());
        for (size_t s = 0; s < spans.size(); s++) {
            views[s].resize(layers), staged[s].resize(layers), marked[s].resize(layers);
            const uint64_t seed = fuzz.random();
            for (size_t l = 0; l < layers; l++) {
                fuzz.random.seed(seed);
                spans[s] = span_of(held, model.blocks[l], views[s][l], staged[s][l], marked[s][l]);
            }
            spans[s].views = views[s].data(), spans[s].staged = staged[s].data();
            if (spans[s].marked) spans[s].marked = marked[s].data();
            tokens += spans[s].tokens;
        }
    }
};

// What a pass is wanted for, in buffers of exactly its size.
struct Outputs {
    std::vector<int64_t> logits_of, streams_of;
    std::unique_ptr<float[]> logits;
    std::unique_ptr<uint16_t[]> streams, hidden;
    int64_t logits_bytes, streams_values, hidden_values;

    Outputs(Fuzz &fuzz, const Model &model, int64_t tokens) {
        logits_of.resize(size_t(fuzz.below(tokens + 1))), streams_of.resize(size_t(fuzz.below(tokens + 1)));
        for (std::vector<int64_t> *rows : {&logits_of, &streams_of})
            for (int64_t &row : *rows) row = fuzz.below(tokens);
        const int64_t hidden_size = model.blocks[0].hidden;
        logits_bytes = 4 * int64_t(logits_of.size()) * model.whole.head.rows;
        streams_values = int64_t(streams_of.size()) * model.blocks[0].streams * hidden_size;
        hidden_values = tokens * hidden_size;
        logits = fuzz.values<float>(logits_bytes / 4);
        streams = fuzz.values<uint16_t>(streams_values), hidden = fuzz.values<uint16_t>(hidden_values);
    }

    wf_wanted wanted(bool all = true) {
        return {int64_t(logits_of.size()),   logits_of.data(),  logits.get(),
                int64_t(streams_of.size()),  streams_of.data(), streams.get(),
                all ? hidden.get() : nullptr};
    }

    bool same(const Outputs &other) const {
        return !std::memcmp(logits.get(), other.logits.get(), size_t(logits_bytes)) &&
               !std::memcmp(streams.get(), other.streams.get(), size_t(2 * streams_values));
    }
};

// The same pass twice: rings are as they were where rows are staged, entries are written again. Then a spoiled call.
template <class Call, class Spoil>
bool twice(Held &held, const Model &model, int64_t tokens, const char *name, const Call &call, const Spoil &spoil) {
    Fuzz &fuzz = held.fuzz;
    Outputs first(fuzz, model, tokens), second(fuzz, model, tokens);
    second.logits_of = first.logits_of, second.streams_of = first.streams_of;
    second.logits_bytes = first.logits_bytes, second.streams_values = first.streams_values;
    second.logits = fuzz.values<float>(first.logits_bytes / 4);
    second.streams = fuzz.values<uint16_t>(first.streams_values);
    wf_wanted wanted = first.wanted(), again = second.wanted(fuzz.below(2) == 0);
    const auto failed = [&](const std::string &what) { return fuzz.message = std::string(name) + ": " + what, false; };
    if (const int error = call(fuzz.runtime(1), wanted)) return failed("error " + std::to_string(error));
    if (held.tame && !finite(first.hidden.get(), first.hidden_values)) return failed("not finite");
    if (held.tame && !finite(first.streams.get(), first.streams_values)) return failed("streams are not finite");
    if (const int error = call(fuzz.runtime(2), again)) return failed("error " + std::to_string(error));
    if (held.tame && !first.same(second)) return failed("two threads differ from one");
    if (fuzz.below(4)) spoil();
    else if (first.logits_of.size()) first.logits_of[0] = fuzz.below(2) ? -1 : tokens;
    else if (first.streams_of.size()) first.streams_of[0] = tokens;
    else wanted.num_streams = -1;
    return call(fuzz.runtime(), wanted) ? true : failed("a bad argument was taken");
}

std::unique_ptr<int64_t[]> ids_of(Fuzz &fuzz, int64_t tokens, int64_t vocabulary) {
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(tokens)]);
    for (int64_t i = 0; i < tokens; i++) ids[size_t(i)] = fuzz.below(vocabulary);
    return ids;
}

// Spoils a model, in one of `SPOILED` ways.
constexpr int64_t SPOILED = 6;

void spoil_model(Model &model, wf_model &whole, int64_t way) {
    switch (way) {
        case 0: whole.layers = 0; break;
        case 1: whole.head.rows++; break;
        case 2: whole.head_fn.columns++; break;
        case 3: whole.norm = nullptr; break;
        case 4: model.shared[0].id = 0; break;
        default:
            for (std::vector<wf_expert> &layer : model.experts)
                for (wf_expert &expert : layer) expert.w1.codes = nullptr;
    }
}

}  // namespace

bool fuzz_forward(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const int64_t hidden = 1 + fuzz.below(60), streams = 1 + fuzz.below(4), topk = 1 + fuzz.below(3);
    Model model(held, hidden, streams, topk, 1 + fuzz.below(3));
    Sequences sequences(held, model);
    std::vector<wf_span> &spans = sequences.spans;
    auto ids = ids_of(fuzz, sequences.tokens, model.whole.head.rows);
    wf_model whole = model.whole;
    const auto call = [&](wf_runtime *runtime, const wf_wanted &wanted) {
        return wf_forward(runtime, &whole, int64_t(spans.size()), spans.data(), ids.get(), &wanted);
    };
    return twice(held, model, sequences.tokens, "forward", call, [&] {
        const int64_t way = fuzz.below(SPOILED + 2);
        if (way == SPOILED) ids[0] = fuzz.below(2) ? -1 : whole.embedding.rows;
        else if (way > SPOILED) spans[0].views = nullptr;
        else spoil_model(model, whole, way);
    });
}

bool fuzz_mtp(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const int64_t hidden = 1 + fuzz.below(60), streams = 1 + fuzz.below(4), topk = 1 + fuzz.below(3);
    Model model(held, hidden, streams, topk, 1);
    Sequences sequences(held, model);
    std::vector<wf_span> &spans = sequences.spans;
    const int64_t tokens = sequences.tokens;
    auto ids = ids_of(fuzz, tokens, model.whole.head.rows);
    const uint16_t *given = held.bf16(tokens * streams * hidden);
    wf_mtp_module module = {model.whole, held.matrix(hidden, hidden), held.matrix(hidden, hidden), held.bf16(hidden),
                            held.bf16(hidden)};
    const auto call = [&](wf_runtime *runtime, const wf_wanted &wanted) {
        return wf_mtp(runtime, &module, int64_t(spans.size()), spans.data(), ids.get(), given, &wanted);
    };
    return twice(held, model, tokens, "mtp", call, [&] {
        const int64_t way = fuzz.below(SPOILED + 5);
        if (way < SPOILED) return spoil_model(model, module.model, way);
        switch (way - SPOILED) {
            case 0: module.model.layers = 2; break;
            case 1: module.e_proj.columns++; break;
            case 2: module.h_proj.codes = nullptr; break;
            case 3: module.hnorm = nullptr; break;
            default: given = nullptr;
        }
    });
}
