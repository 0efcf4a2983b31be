// The C interface of choosing tokens: every size and id is checked here.
#include <algorithm>
#include <cmath>

#include "api.h"
#include "choose.h"

namespace {

constexpr int64_t MOST_TOKENS = int64_t(1) << 31;

bool outside(const int64_t *ids, int64_t count, int64_t vocabulary) {
    return std::any_of(ids, ids + count, [=](int64_t id) { return id < 0 || id >= vocabulary; });
}

bool penalizes(const wf_choice &choice) {
    return choice.repetition != 1 || choice.presence != 0 || choice.frequency != 0;
}

int check_choice(const wf_choice &choice, int64_t rows, int64_t vocabulary) {
    if (choice.row < 0 || choice.row >= rows) return WF_ERROR_SHAPE;
    if (choice.seed < 0 || choice.position < 0 || choice.answer < 0 || choice.answer >> 32) return WF_ERROR_SHAPE;
    if (!(choice.temperature >= 0 && std::isfinite(choice.temperature)) || choice.top_k < 0) return WF_ERROR_SHAPE;
    if (!(choice.top_p > 0 && choice.top_p <= 1 && choice.min_p >= 0 && choice.min_p <= 1)) return WF_ERROR_SHAPE;
    if (!(choice.repetition > 0) || !std::isfinite(choice.presence + choice.frequency)) return WF_ERROR_SHAPE;
    for (const int64_t count : {choice.prompt_tokens, choice.output_tokens, choice.biases})
        if (count < 0 || count > MOST_TOKENS) return WF_ERROR_SHAPE;
    if (choice.biases && !(choice.bias_ids && choice.bias)) return WF_ERROR_NULL;
    if (outside(choice.bias_ids, choice.biases, vocabulary)) return WF_ERROR_SHAPE;
    if (choice.mask && choice.mask_bytes != (vocabulary + 31) / 32 * 4) return WF_ERROR_BYTES;
    if (!penalizes(choice)) return WF_OK;
    if ((choice.prompt_tokens && !choice.prompt) || (choice.output_tokens && !choice.output)) return WF_ERROR_NULL;
    const bool wrong = outside(choice.prompt, choice.prompt_tokens, vocabulary) ||
                       outside(choice.output, choice.output_tokens, vocabulary);
    return wrong ? WF_ERROR_SHAPE : WF_OK;
}

}  // namespace

extern "C" int wf_choose(wf_runtime *runtime, const float *logits, int64_t rows, int64_t vocabulary,
                         const wf_choice *choices, int64_t count, int64_t *ids) {
    if (!runtime || !logits || !choices || !ids) return WF_ERROR_NULL;
    if (wf::bad(rows) || wf::bad(vocabulary, INT32_MAX) || wf::bad(count)) return WF_ERROR_SHAPE;
    for (int64_t i = 0; i < count; i++)
        if (const int error = check_choice(choices[i], rows, vocabulary)) return error;
    const wf::Call inside(*runtime);
    const int64_t bytes = wf::Space::bytes(vocabulary);
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(bytes * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each(count, [&](int64_t i, int thread) {
        wf::Space space(scratch + bytes * thread, vocabulary);
        ids[i] = wf::choose(logits + choices[i].row * vocabulary, vocabulary, choices[i], space);
    });
    return WF_OK;
}
