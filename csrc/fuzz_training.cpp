// Training through the C interface: every result of every instruction set against the plain one's, on any number of
// threads, and a spoiled argument.
#include <cmath>
#include <cstring>
#include <functional>
#include <sstream>

#include "fuzz.h"

namespace {

// What a call fills: float32 or bfloat16.
struct Result {
    int64_t count;
    bool wide;
    std::unique_ptr<float[]> floats, plain_floats;
    std::unique_ptr<uint16_t[]> words, plain_words;

    Result(int64_t n, bool in_float32) : count(n), wide(in_float32) {
        if (wide) floats.reset(new float[size_t(n)]), plain_floats.reset(new float[size_t(n)]);
        else words.reset(new uint16_t[size_t(n)]), plain_words.reset(new uint16_t[size_t(n)]);
    }
    float value(int64_t i, bool plain) const {
        if (wide) return (plain ? plain_floats : floats)[size_t(i)];
        const uint32_t bits = uint32_t((plain ? plain_words : words)[size_t(i)]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
    void keep() {
        if (wide) std::memcpy(plain_floats.get(), floats.get(), size_t(4 * count));
        else std::memcpy(plain_words.get(), words.get(), size_t(2 * count));
    }
    // The RMS of the difference over that of the values: sums cancel, single values may not be held to it.
    double difference() const {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < count; i++) {
            const double a = value(i, false), b = value(i, true);
            if (!std::isfinite(a) || !std::isfinite(b)) return INFINITY;
            sum += (a - b) * (a - b), size += b * b;
        }
        return size > 0 ? std::sqrt(sum / size) : std::sqrt(sum);
    }
};

using Results = std::vector<Result *>;

// `call` on every instruction set.
bool agree(Fuzz &fuzz, const char *name, const Results &results, const std::function<int()> &call) {
    std::ostringstream problem;
    const auto wrong = [&] { return fuzz.message = problem.str(), false; };
    fuzz.use("generic");
    if (const int error = call()) return problem << name << ": error " << error, wrong();
    for (Result *result : results) result->keep();
    for (const std::string &isa : fuzz.isas) {
        fuzz.use(isa);
        if (const int error = call()) return problem << name << ", " << isa << ": error " << error, wrong();
        for (size_t i = 0; i < results.size(); i++)
            if (const double by = results[i]->difference(); !(by < 1e-2))
                return problem << name << ", " << isa << ": result " << i << " differs by " << by, wrong();
    }
    return true;
}

bool fuzz_hyper(Fuzz &fuzz) {
    const int64_t tokens = 1 + fuzz.below(40), hidden = 1 + fuzz.below(fuzz.below(2) ? 40 : 300), all = 4 * hidden;
    const bool last = fuzz.below(3) == 0;
    const int64_t outputs = last ? 4 : 24, scales = last ? 1 : 3;
    auto fn = fuzz.floats(outputs * all, 1 / std::sqrt(float(all))), base = fuzz.floats(outputs, 1);
    auto scale = fuzz.floats(scales, 2);
    wf_hc hc = {fn.get(), base.get(), scale.get(), hidden, 4, int32_t(1 + fuzz.below(21)), last, 1e-6f, 1e-6f};
    auto x = fuzz.bf16(tokens * all), grad = fuzz.bf16(tokens * hidden), past = fuzz.bf16(tokens * all);
    auto grad_post = fuzz.floats(tokens * 4, 1), grad_comb = fuzz.floats(tokens * 16, 1);
    Result mixes(tokens * (outputs + 1), true), out(tokens * hidden, false), post(tokens * 4, true);
    Result comb(tokens * 16, true), grad_x(tokens * all, false), grad_fn(outputs * all, true);
    Result grad_base(outputs, true), grad_scale(scales, true);
    const uint16_t *elsewhere = fuzz.below(2) ? past.get() : nullptr;
    const auto call = [&] {
        const int error = wf_hc_read(fuzz.runtime(), &hc, x.get(), tokens, mixes.floats.get(), out.words.get(),
                                     last ? nullptr : post.floats.get(), last ? nullptr : comb.floats.get());
        if (error) return error;
        return wf_hc_read_grad(fuzz.runtime(), &hc, x.get(), tokens, mixes.floats.get(), grad.get(),
                               last ? nullptr : grad_post.get(), last ? nullptr : grad_comb.get(), elsewhere,
                               grad_x.words.get(), grad_fn.floats.get(), grad_base.floats.get(),
                               grad_scale.floats.get());
    };
    Results results = {&mixes, &out, &grad_x};  // sums over few tokens may cancel to nothing
    if (!last) results.push_back(&post), results.push_back(&comb);
    if (!agree(fuzz, "hc_read", results, call)) return false;
    Result y(tokens * all, false), grad_f(tokens * hidden, false), posts(tokens * 4, true), combs(tokens * 16, true);
    const auto give = [&] {
        const int error = wf_hc_return(fuzz.runtime(), grad.get(), x.get(), grad_post.get(), grad_comb.get(), tokens, 4,
                                       hidden, y.words.get());
        return error ? error
                     : wf_hc_return_grad(fuzz.runtime(), grad.get(), x.get(), grad_post.get(), grad_comb.get(),
                                         past.get(), tokens, 4, hidden, grad_f.words.get(), grad_x.words.get(),
                                         posts.floats.get(), combs.floats.get());
    };
    if (!agree(fuzz, "hc_return", {&y, &grad_f, &grad_x}, give)) return false;
    const auto given = hc;
    switch (fuzz.below(6)) {
        case 0: hc.fn = nullptr; break;
        case 1: hc.scale = nullptr; break;
        case 2: hc.hidden = -fuzz.below(3); break;
        case 3: hc.hidden = int64_t(1) << 40; break;
        case 4: hc.streams = int32_t(fuzz.below(2) ? 3 : 5 + fuzz.below(9)); break;
        default: hc.last = 0, hc.iters = -int32_t(fuzz.below(2)); break;
    }
    if (!fuzz.refused("hc_read", call())) return false;
    hc = given;
    return fuzz.refused("hc_return", wf_hc_return(fuzz.runtime(), grad.get(), nullptr, grad_post.get(), grad_comb.get(),
                                                  tokens, 4, hidden, y.words.get()));
}

bool fuzz_norm(Fuzz &fuzz) {
    const int64_t heads = 1 + fuzz.below(3), tokens = 1 + fuzz.below(40), rows = heads * tokens;
    const int64_t columns = 2 + fuzz.below(fuzz.below(2) ? 40 : 300), pairs = 1 + fuzz.below(columns / 2);
    auto x = fuzz.bf16(rows * columns), grad = fuzz.bf16(rows * columns);
    auto weight = fuzz.floats(columns, 2), cosine = fuzz.floats(tokens * pairs, 1);
    auto sine = fuzz.floats(tokens * pairs, 1);
    wf_turn turn = {cosine.get(), sine.get(), pairs, heads, int32_t(fuzz.below(2))};
    const float *given = fuzz.below(2) ? weight.get() : nullptr;
    const wf_turn *turned = fuzz.below(2) ? &turn : nullptr;
    Result out(rows * columns, false), grad_x(rows * columns, false), grad_weight(columns, true);
    Result rotated(rows * columns, false);
    const auto call = [&] {
        int error = wf_norm(fuzz.runtime(), x.get(), given, rows, columns, 1e-6f, turned, out.words.get());
        error |= wf_norm_grad(fuzz.runtime(), x.get(), given, rows, columns, 1e-6f, turned, grad.get(),
                              grad_x.words.get(), given ? grad_weight.floats.get() : nullptr);
        return error | wf_rotate(fuzz.runtime(), x.get(), rows, columns, &turn, rotated.words.get());
    };
    if (!agree(fuzz, "norm", {&out, &rotated}, call)) return false;
    switch (fuzz.below(5)) {
        case 0: turn.pairs = columns / 2 + 1 + fuzz.below(9); break;
        case 1: turn.heads = rows + 1; break;
        case 2: turn.sine = nullptr; break;
        case 3: turn.pairs = -fuzz.below(2); break;
        default: turn.heads = 0; break;
    }
    return fuzz.refused("rotate", wf_rotate(fuzz.runtime(), x.get(), rows, columns, &turn, rotated.words.get())) &&
           fuzz.refused("norm", wf_norm(fuzz.runtime(), x.get(), given, rows, columns, 1e-6f, &turn, out.words.get()));
}

bool fuzz_swiglu(Fuzz &fuzz) {
    const int64_t rows = 1 + fuzz.below(40), inter = 1 + fuzz.below(300), all = rows * inter;
    auto gate = fuzz.bf16(all), up = fuzz.bf16(all), grad = fuzz.bf16(all);
    auto route = fuzz.floats(rows, 2);
    const bool routed = fuzz.below(2);
    Result inner(all, false), grad_gate(all, false), grad_up(all, false), grad_route(rows, true);
    const float limit = fuzz.below(2) ? 10.0f : 0.5f, *weights = routed ? route.get() : nullptr;
    float *to = routed ? grad_route.floats.get() : nullptr;
    const auto call = [&] {
        const int error =
            wf_swiglu(fuzz.runtime(), gate.get(), up.get(), weights, rows, inter, limit, inner.words.get());
        return error | wf_swiglu_grad(fuzz.runtime(), gate.get(), up.get(), weights, grad.get(), rows, inter, limit,
                                      grad_gate.words.get(), grad_up.words.get(), to);
    };
    if (!agree(fuzz, "swiglu", {&inner, &grad_gate, &grad_up}, call)) return false;
    return fuzz.refused("swiglu", wf_swiglu(fuzz.runtime(), gate.get(), up.get(), weights, rows, -fuzz.below(2), limit,
                                            inner.words.get())) &&
           fuzz.refused("swiglu", wf_swiglu_grad(fuzz.runtime(), gate.get(), up.get(), route.get(), grad.get(), rows,
                                                 inter, limit, grad_gate.words.get(), grad_up.words.get(), nullptr));
}

bool fuzz_compression(Fuzz &fuzz) {
    const int64_t ratio = 1 + fuzz.below(fuzz.below(2) ? 5 : 40), dim = 1 + fuzz.below(100);
    const bool overlap = fuzz.below(2);
    const int64_t width = overlap ? 2 * dim : dim;
    std::vector<int64_t> lengths(size_t(1 + fuzz.below(4)));
    int64_t tokens = 0, entries = 0;
    for (int64_t &length : lengths) length = 1 + fuzz.below(3 * ratio);
    lengths[size_t(fuzz.below(int64_t(lengths.size())))] += ratio;
    for (const int64_t length : lengths) tokens += length, entries += length / ratio;
    auto kv = fuzz.bf16(tokens * width), score = fuzz.bf16(tokens * width), grad = fuzz.bf16(entries * dim);
    auto ape = fuzz.floats(ratio * width, 2);
    wf_compression compression = {kv.get(), score.get(), ape.get(), lengths.data(), int64_t(lengths.size()),
                                  tokens,   ratio,       dim,       overlap};
    Result out(entries * dim, false), grad_kv(tokens * width, false), grad_score(tokens * width, false);
    Result grad_ape(ratio * width, true);
    const auto call = [&] {
        const int error = wf_compress(fuzz.runtime(), &compression, out.words.get());
        return error ? error
                     : wf_compress_grad(fuzz.runtime(), &compression, grad.get(), grad_kv.words.get(),
                                        grad_score.words.get(), grad_ape.floats.get());
    };
    if (!agree(fuzz, "compress", {&out, &grad_kv}, call)) return false;
    switch (fuzz.below(6)) {
        case 0: compression.tokens += fuzz.below(2) ? 1 : -1; break;
        case 1: lengths[0] = -fuzz.below(2); break;
        case 2: compression.ratio = tokens + 1; break;
        case 3: compression.sequences = 0; break;
        case 4: compression.dim = -fuzz.below(2); break;
        default: compression.lengths = nullptr; break;
    }
    return fuzz.refused("compress", call());
}

std::unique_ptr<uint8_t[]> choices(Fuzz &fuzz, int64_t count) {
    auto chosen = fuzz.values<uint8_t>(count);
    for (int64_t i = 0; i < count; i++) chosen[size_t(i)] &= 1;
    return chosen;
}

bool fuzz_joint(Fuzz &fuzz) {
    const int64_t heads = 1 + fuzz.below(fuzz.below(4) ? 6 : 140), dim = 32 * (1 + fuzz.below(4));
    const int64_t ratio = fuzz.below(4) ? 1 + fuzz.below(9) : 0, window = 1 + fuzz.below(100);
    std::vector<int64_t> lengths(size_t(1 + fuzz.below(3)));
    int64_t tokens = 0, entries = 0, seen = 0;
    for (int64_t &length : lengths) {
        length = 1 + fuzz.below(heads > 6 ? 20 : 200);
        const int64_t count = ratio ? length / ratio : 0;
        tokens += length, entries += count, seen += length * count;
    }
    const int64_t all = tokens * heads * dim;
    auto q = fuzz.bf16(all), kv = fuzz.bf16(tokens * dim), of_entries = fuzz.bf16(entries * dim);
    auto grad = fuzz.bf16(all);
    auto sink = fuzz.floats(heads, 2);
    auto chosen = choices(fuzz, seen);
    wf_joint joint = {q.get(),
                      kv.get(),
                      entries ? of_entries.get() : nullptr,
                      sink.get(),
                      fuzz.below(2) ? chosen.get() : nullptr,
                      lengths.data(),
                      int64_t(lengths.size()),
                      tokens,
                      heads,
                      dim,
                      window,
                      ratio};
    Result o(all, false), lse(tokens * heads, true), mass(seen, true), grad_q(all, false), grad_kv(tokens * dim, false);
    Result grad_entries(entries * dim, false), delta(tokens * heads, true);
    const bool weighed = fuzz.below(2);
    const auto call = [&] {
        const int error = wf_joint_attention(fuzz.runtime(), &joint, o.words.get(), lse.floats.get(),
                                             weighed ? mass.floats.get() : nullptr);
        return error ? error
                     : wf_joint_attention_grad(fuzz.runtime(), &joint, lse.floats.get(), grad.get(), grad_q.words.get(),
                                               grad_kv.words.get(), grad_entries.words.get(), delta.floats.get());
    };
    Results results = {&o, &lse, &grad_kv};
    if (weighed) results.push_back(&mass);
    if (!agree(fuzz, "joint", results, call)) return false;
    switch (fuzz.below(8)) {
        case 0: joint.tokens += fuzz.below(2) ? 1 : -1; break;
        case 1: lengths[0] = -fuzz.below(2); break;
        case 2: joint.dim -= 1 + fuzz.below(31); break;
        case 3: joint.sequences = 0; break;
        case 4: joint.heads = fuzz.below(2) ? 0 : int64_t(1) << 40; break;
        case 5: joint.window = -fuzz.below(2); break;
        case 6: joint.ratio = -1 - fuzz.below(9); break;
        default: joint.kv = nullptr; break;
    }
    return fuzz.refused("joint", call());
}

bool fuzz_losses(Fuzz &fuzz) {
    const int64_t rows = 1 + fuzz.below(40), vocabulary = 1 + fuzz.below(300), all = rows * vocabulary;
    auto logits = fuzz.bf16(all);
    std::unique_ptr<int64_t[]> targets(new int64_t[size_t(rows)]);
    for (int64_t i = 0; i < rows; i++) targets[size_t(i)] = fuzz.below(4) ? fuzz.below(vocabulary) : -100;
    Result grad(all, false), nats(rows, true);
    const auto call = [&] {
        std::memcpy(grad.words.get(), logits.get(), size_t(2 * all));
        return wf_cross_entropy(fuzz.runtime(), grad.words.get(), targets.get(), rows, vocabulary, nats.floats.get());
    };
    if (!agree(fuzz, "cross-entropy", {&grad, &nats}, call)) return false;
    targets[size_t(fuzz.below(rows))] = vocabulary + fuzz.below(9);
    if (!fuzz.refused("cross-entropy", call())) return false;

    const int64_t queries = 1 + fuzz.below(40), heads = 1 + fuzz.below(5), entries = 1 + fuzz.below(60);
    const int64_t ratio = 1 + fuzz.below(5), first = fuzz.below(200), scores = queries * entries;
    auto dots = fuzz.floats(scores * heads, 3), mass = fuzz.floats(scores, 1);
    for (int64_t i = 0; i < scores; i++) mass[size_t(i)] = fuzz.below(5) ? std::fabs(mass[size_t(i)]) : 0;
    auto weights = fuzz.bf16(queries * heads);
    auto chosen = choices(fuzz, scores);
    const uint8_t *some = fuzz.below(2) ? chosen.get() : nullptr;
    Result loss(queries, true), grad_dots(scores * heads, false), grad_weights(queries * heads, true);
    const auto learn = [&](int64_t by) {
        return wf_index_loss(fuzz.runtime(), dots.get(), weights.get(), mass.get(), some, first, queries, heads,
                             entries, by, 0, loss.floats.get(), grad_dots.words.get(), grad_weights.floats.get());
    };
    if (!agree(fuzz, "index loss", {}, [&] { return learn(ratio); })) return false;
    for (int64_t i = 0; i < queries; i++)
        if (!std::isfinite(loss.floats[size_t(i)])) return fuzz.message = "an index loss is not finite", false;
    return fuzz.refused("index loss", learn(-fuzz.below(2)));
}

bool fuzz_combine(Fuzz &fuzz) {
    const int64_t rows = 1 + fuzz.below(40), count = 1 + fuzz.below(40), each = 1 + fuzz.below(4);
    const int64_t dim = 1 + fuzz.below(300);
    auto given = fuzz.bf16(rows * dim), added = fuzz.bf16(count * dim);
    std::unique_ptr<int64_t[]> index(new int64_t[size_t(count * each)]);
    for (int64_t i = 0; i < count * each; i++) index[size_t(i)] = fuzz.below(rows);
    Result out(count * dim, false);
    const uint16_t *more = fuzz.below(2) ? added.get() : nullptr;
    const auto call = [&] {
        return wf_combine_rows(fuzz.runtime(), given.get(), rows, index.get(), count, each, dim, more, out.words.get());
    };
    if (!agree(fuzz, "combine", {&out}, call)) return false;
    index[size_t(fuzz.below(count * each))] = fuzz.below(2) ? rows + fuzz.below(9) : -1 - fuzz.below(9);
    return fuzz.refused("combine", call());
}

}  // namespace

bool fuzz_training(Fuzz &fuzz) {
    bool (*const parts[])(Fuzz &) = {fuzz_hyper, fuzz_norm,   fuzz_swiglu, fuzz_compression,
                                     fuzz_joint, fuzz_losses, fuzz_combine};
    return parts[fuzz.below(7)](fuzz);
}
