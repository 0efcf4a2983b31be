// Random passes of whole small models: the same on any threads, and with one argument spoiled.
#include "fuzz_model.h"

namespace {

struct Model {
    std::vector<wf_block> blocks;
    std::vector<std::vector<wf_expert>> experts;
    std::vector<wf_expert> shared;
    std::vector<const wf_block *> block_pointers;
    std::vector<const wf_expert *> expert_pointers;
    wf_model whole = {};

    Model(Held &held, int64_t hidden, int64_t streams, int64_t topk) {
        Fuzz &fuzz = held.fuzz;
        const int64_t layers = 1 + fuzz.below(3);
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

}  // namespace

bool fuzz_forward(Fuzz &fuzz) {
    Held held = {fuzz, fuzz.below(2) == 0, {}};
    const int64_t hidden = 1 + fuzz.below(60), streams = 1 + fuzz.below(4), topk = 1 + fuzz.below(3);
    Model model(held, hidden, streams, topk);
    const int64_t layers = model.whole.layers, vocabulary = model.whole.head.rows;
    std::vector<wf_span> spans(size_t(1 + fuzz.below(3)));
    std::vector<std::vector<wf_view>> views(spans.size());
    std::vector<std::vector<wf_staged>> staged(spans.size());
    int64_t tokens = 0;
    for (size_t s = 0; s < spans.size(); s++) {
        views[s].resize(size_t(layers)), staged[s].resize(size_t(layers));
        const uint64_t seed = fuzz.random();
        for (int64_t l = 0; l < layers; l++) {  // the same position and tokens in each layer
            fuzz.random.seed(seed);
            spans[s] = span_of(held, model.blocks[size_t(l)], views[s][size_t(l)], staged[s][size_t(l)]);
        }
        spans[s].views = views[s].data(), spans[s].staged = staged[s].data();
        tokens += spans[s].tokens;
    }
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(tokens)]);
    for (int64_t i = 0; i < tokens; i++) ids[size_t(i)] = fuzz.below(vocabulary);
    const int64_t wanted = fuzz.below(tokens + 1);
    std::vector<int64_t> rows(size_t(wanted) + 1, 0);
    for (int64_t i = 0; i < wanted; i++) rows[size_t(i)] = fuzz.below(tokens);
    auto logits = fuzz.values<float>(wanted * vocabulary), again = fuzz.values<float>(wanted * vocabulary);
    auto out = fuzz.values<uint16_t>(tokens * hidden);
    wf_model whole = model.whole;
    const auto call = [&](wf_runtime *runtime, float *to, uint16_t *last) {
        return wf_forward(runtime, &whole, int64_t(spans.size()), spans.data(), ids.get(), wanted, rows.data(), to,
                          last);
    };
    if (const int error = call(fuzz.runtime(1), logits.get(), out.get()))
        return fuzz.message = "forward: error " + std::to_string(error), false;
    if (held.tame && !finite(out.get(), tokens * hidden)) return fuzz.message = "forward: not finite", false;
    // rings are as they were, entries are written again: the same pass, on other threads
    if (const int error = call(fuzz.runtime(2), again.get(), fuzz.below(2) ? nullptr : out.get()))
        return fuzz.message = "forward: error " + std::to_string(error), false;
    if (held.tame && std::memcmp(logits.get(), again.get(), size_t(4 * wanted * vocabulary)))
        return fuzz.message = "forward: two threads differ from one", false;

    switch (fuzz.below(9)) {
        case 0: whole.layers = 0; break;
        case 1: whole.head.rows++; break;
        case 2: whole.head_fn.columns++; break;
        case 3: whole.norm = nullptr; break;
        case 4: ids[0] = fuzz.below(2) ? -1 : vocabulary; break;
        case 5: rows[0] = tokens; break;
        case 6: model.shared[0].id = 0; break;
        case 7: spans[0].views = nullptr; break;
        default:
            for (std::vector<wf_expert> &layer : model.experts)
                for (wf_expert &expert : layer) expert.w1.codes = nullptr;
    }
    if (rows[0] == tokens && !wanted) return true;
    if (call(fuzz.runtime(), logits.get(), out.get())) return true;
    fuzz.message = "forward: a bad argument was taken";
    return false;
}
