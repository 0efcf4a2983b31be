// Random passes of whole small models, and of MTP modules: the same on any threads, and with one argument spoiled.
#include "fuzz_pass.h"

namespace {

// The same pass twice: rings are as they were where rows are staged, entries are written again. Then a spoiled call.
template <class Call, class Spoil>
bool twice(Held &held, const Model &model, int64_t tokens, const char *name, const Call &call, const Spoil &spoil) {
    Fuzz &fuzz = held.fuzz;
    Outputs first(fuzz, model, tokens), second(fuzz, first);
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

// Spoils what an adapter adds, where there is one.
void spoil_adapter(Sequences &sequences) {
    for (std::vector<wf_adapter> &adapter : sequences.adapters)
        if (!adapter.empty()) {
            adapter[0].w2.rank = 513, adapter[0].w2.form = WF_BF16;
            return;
        }
    sequences.spans[0].views = nullptr;
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
        const int64_t way = fuzz.below(SPOILED + 3);
        if (way == SPOILED + 2) spoil_adapter(sequences);
        else if (way == SPOILED) ids[0] = fuzz.below(2) ? -1 : whole.embedding.rows;
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
