// Whole small models, sequences that meet them and what a pass leaves: for the fuzzer's passes.
#pragma once

#include "fuzz_model.h"

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
    std::vector<std::vector<wf_adapter>> adapters;
    int64_t tokens = 0;

    Sequences(Held &held, const Model &model) : spans(size_t(1 + held.fuzz.below(3))) {
        Fuzz &fuzz = held.fuzz;
        const size_t layers = size_t(model.whole.layers);
        views.resize(spans.size()), staged.resize(spans.size()), marked.resize(spans.size());
        adapters.resize(spans.size());
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
            if (fuzz.below(2)) continue;
            for (size_t l = 0; l < layers; l++)
                adapters[s].push_back(adapter_of(held, &model.blocks[l], &model.shared[l], model.experts[l].data(),
                                                 int64_t(model.experts[l].size())));
            spans[s].adapter = adapters[s].data();
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
        allocate(fuzz);
    }

    // The same is wanted once more, elsewhere.
    Outputs(Fuzz &fuzz, const Outputs &other)
        : logits_of(other.logits_of), streams_of(other.streams_of), logits_bytes(other.logits_bytes),
          streams_values(other.streams_values), hidden_values(other.hidden_values) {
        allocate(fuzz);
    }

    void allocate(Fuzz &fuzz) {
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

inline std::unique_ptr<int64_t[]> ids_of(Fuzz &fuzz, int64_t tokens, int64_t vocabulary) {
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(tokens)]);
    for (int64_t i = 0; i < tokens; i++) ids[size_t(i)] = fuzz.below(vocabulary);
    return ids;
}
