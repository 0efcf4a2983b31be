// Choices of tokens: any logits and settings, against a sort of the whole row in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "fuzz.h"

namespace {

struct Row {
    std::unique_ptr<int64_t[]> prompt, output, bias_ids;
    std::unique_ptr<float[]> bias;
    std::unique_ptr<uint32_t[]> mask;
};

std::unique_ptr<int64_t[]> ids_below(Fuzz &fuzz, int64_t count, int64_t vocabulary) {
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(count)]);
    for (int64_t i = 0; i < count; i++) ids[size_t(i)] = fuzz.below(vocabulary);
    return ids;
}

wf_choice choice_of(Fuzz &fuzz, Row &row, int64_t rows, int64_t vocabulary) {
    wf_choice choice = {};
    choice.row = fuzz.below(rows), choice.seed = int64_t(fuzz.random() >> 1), choice.position = fuzz.below(1 << 20);
    choice.answer = fuzz.below(4);
    choice.temperature = fuzz.below(4) ? double(1 + fuzz.below(40)) / 20 : fuzz.below(2) ? 0 : 1e-300;
    choice.top_p = fuzz.below(2) ? 1 : double(1 + fuzz.below(100)) / 100;
    choice.top_k = fuzz.below(2) ? 0 : 1 + fuzz.below(2 * vocabulary);
    choice.min_p = fuzz.below(2) ? 0 : double(fuzz.below(101)) / 100;
    choice.repetition = 1;
    if (fuzz.below(3) == 0) {
        choice.repetition = float(1 + fuzz.below(30)) / 10, choice.presence = float(fuzz.below(41) - 20) / 10;
        choice.frequency = float(fuzz.below(41) - 20) / 10;
        choice.prompt_tokens = fuzz.below(40), choice.output_tokens = fuzz.below(40);
        row.prompt = ids_below(fuzz, choice.prompt_tokens, vocabulary), choice.prompt = row.prompt.get();
        row.output = ids_below(fuzz, choice.output_tokens, vocabulary), choice.output = row.output.get();
    }
    if (fuzz.below(3) == 0) {
        choice.biases = 1;
        row.bias_ids = ids_below(fuzz, 1, vocabulary), choice.bias_ids = row.bias_ids.get();
        row.bias.reset(new float[1]), row.bias[0] = float(fuzz.below(201) - 100), choice.bias = row.bias.get();
    }
    if (fuzz.below(3) == 0) {
        choice.mask_bytes = (vocabulary + 31) / 32 * 4;
        row.mask = fuzz.values<uint32_t>(choice.mask_bytes / 4), choice.mask = row.mask.get();
    }
    return choice;
}

std::vector<float> adjusted(const float *logits, int64_t vocabulary, const wf_choice &choice) {
    std::vector<float> row(logits, logits + vocabulary);
    for (int64_t k = 0; k < vocabulary; k++) {
        float &x = row[size_t(k)];
        const int64_t *prompt = choice.prompt, *output = choice.output;
        const int64_t asked = prompt ? std::count(prompt, prompt + choice.prompt_tokens, k) : 0;
        const int64_t came = output ? std::count(output, output + choice.output_tokens, k) : 0;
        if (asked || came) x = x < 0 ? x * choice.repetition : x / choice.repetition;
        x = x - choice.frequency * float(came) - (came ? choice.presence : 0);
        for (int64_t i = 0; i < choice.biases; i++) x += choice.bias_ids[i] == k ? choice.bias[i] : 0;
        if (choice.mask && !(choice.mask[k / 32] >> (k % 32) & 1)) x = -INFINITY;
    }
    return row;
}

// True if `id` may be chosen: it is within the filters by a whole sort, or just outside of what rounding decides.
bool possible(const std::vector<float> &row, const wf_choice &choice, int64_t id) {
    std::vector<int64_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[size_t(a)] > row[size_t(b)]; });
    const float most = row[size_t(order[0])];
    if (choice.temperature == 0) return id == order[0];
    const auto weight = [&](int64_t k) { return std::exp(double(row[size_t(k)] - most) / choice.temperature); };
    const int64_t kept = choice.top_k ? std::min<int64_t>(choice.top_k, int64_t(row.size())) : int64_t(row.size());
    double total = 0, before = 0;
    for (int64_t i = 0; i < kept; i++) total += weight(order[size_t(i)]);
    for (int64_t i = 0; i < kept; i++) {
        const double share = weight(order[size_t(i)]);
        if (order[size_t(i)] == id)
            return share > 0 && before <= choice.top_p * total * (1 + 1e-12) && share >= choice.min_p * (1 - 1e-12);
        before += share;
    }
    return false;
}

}  // namespace

bool fuzz_choose(Fuzz &fuzz) {
    const int64_t rows = 1 + fuzz.below(4), vocabulary = 1 + fuzz.below(fuzz.below(2) ? 40 : 3000);
    const int64_t count = 1 + fuzz.below(6), kind = fuzz.below(4);
    std::unique_ptr<float[]> logits(new float[size_t(rows * vocabulary)]);
    for (int64_t i = 0; i < rows * vocabulary; i++)
        logits[size_t(i)] = kind == 0 ? float(fuzz.below(3)) : kind == 1 ? 0 : float(fuzz.below(20001) - 10000) / 1000;
    if (kind == 2) logits[size_t(fuzz.below(rows * vocabulary))] = fuzz.below(2) ? NAN : INFINITY;
    if (kind == 3) logits[size_t(fuzz.below(rows * vocabulary))] = -INFINITY;
    std::vector<Row> parts(static_cast<size_t>(count));
    std::unique_ptr<wf_choice[]> choices(new wf_choice[size_t(count)]);
    for (int64_t i = 0; i < count; i++) choices[size_t(i)] = choice_of(fuzz, parts[size_t(i)], rows, vocabulary);
    std::unique_ptr<int64_t[]> ids(new int64_t[size_t(count)]), alone(new int64_t[1]);
    const auto call = [&](const wf_choice *from, int64_t number, int64_t *to) {
        return wf_choose(fuzz.runtime(), logits.get(), rows, vocabulary, from, number, to);
    };
    std::ostringstream problem;
    const auto wrong = [&] { return fuzz.message = "choose: " + problem.str(), false; };
    fuzz.isa();
    if (const int error = call(choices.get(), count, ids.get())) return problem << "error " << error, wrong();
    for (int64_t i = 0; i < count; i++) {
        const wf_choice &choice = choices[size_t(i)];
        const int64_t id = ids[size_t(i)];
        const float *row = logits.get() + choice.row * vocabulary;
        const bool damaged = std::any_of(row, row + vocabulary, [](float x) { return !(x < INFINITY); });
        const std::vector<float> changed = adjusted(row, vocabulary, choice);
        const bool none = *std::max_element(changed.begin(), changed.end()) == -INFINITY;
        if (damaged || none ? id != -1 : id < 0 || id >= vocabulary || !possible(changed, choice, id))
            return problem << "token " << id << " of " << vocabulary << " at choice " << i, wrong();
        if (call(&choice, 1, alone.get()) || alone[0] != id)
            return problem << "token " << id << " alone is " << alone[0], wrong();
    }
    wf_choice bad = choices[0];
    switch (fuzz.below(6)) {
        case 0: bad.row = fuzz.below(2) ? -1 : rows; break;
        case 1: bad.temperature = fuzz.below(2) ? NAN : -1; break;
        case 2: bad.top_p = fuzz.below(2) ? 0 : 1.5; break;
        case 3: bad.biases = fuzz.below(2) ? -1 : int64_t(1) << 40; break;
        case 4: bad.answer = int64_t(1) << 32; break;
        default: bad.output_tokens = -1; break;
    }
    if (!call(&bad, 1, alone.get())) return problem << "a bad choice was taken", wrong();
    return true;
}
