// Passes that go over marks: they answer as without marks, and leave in `marked` what a pass of a span's first tokens
// leaves in `staged`.
#include "fuzz_pass.h"

namespace {

// A pass of the same spans without marks, whose rings stay as they are; `cut`: spans with a mark end there.
struct Unmarked {
    std::vector<wf_span> spans;
    std::vector<std::vector<wf_staged>> staged;
    std::unique_ptr<int64_t[]> ids;
    int64_t tokens = 0;

    Unmarked(Held &held, const Model &model, const Sequences &from, const int64_t *all_ids, bool cut) {
        std::vector<int64_t> kept;
        for (const wf_span &span : from.spans) {
            wf_span plain = span;
            plain.tokens = cut && span.marked ? span.mark : span.tokens;
            plain.staged = plain.marked = nullptr, plain.mark = 0;
            spans.push_back(plain);
            kept.insert(kept.end(), all_ids, all_ids + spans.back().tokens);
            all_ids += span.tokens;
            staged.emplace_back();
            for (size_t l = 0; l < model.blocks.size(); l++) {
                const wf_block &b = model.blocks[l];
                staged.back().push_back(staged_of(held, b, span.views[l], spans.back().tokens));
                clear(b, span.views[l], spans.back().tokens, staged.back().back());
            }
        }
        for (size_t s = 0; s < spans.size(); s++) spans[s].staged = staged[s].data();
        tokens = int64_t(kept.size()), ids.reset(new int64_t[kept.size()]);
        std::copy(kept.begin(), kept.end(), ids.get());
    }

    // The bytes that fill up a row are nobody's.
    static void clear(const wf_block &b, const wf_view &view, int64_t tokens, const wf_staged &staged) {
        std::memset(staged.window, 0, size_t(StagedSizes(b, view, tokens).window));
    }
};

bool same(const wf_block &b, const wf_view &view, int64_t tokens, const wf_staged &one, const wf_staged &other) {
    const StagedSizes sizes(b, view, tokens);
    return !std::memcmp(one.window, other.window, size_t(sizes.window)) &&
           (!b.ratio || !std::memcmp(one.tail, other.tail, size_t(4 * sizes.tail))) &&
           (!b.index_heads || !std::memcmp(one.key_tail, other.key_tail, size_t(4 * sizes.key_tail)));
}

// A window's rows as values.
std::vector<double> decoded(const wf_block &b, const wf_view &view, int64_t tokens, const uint8_t *row) {
    const int64_t nope = view.window.form == WF_ROWS_KV ? b.head_dim - b.rope_dim : 0;
    const int64_t row_bytes = record_bytes(view.window.form, b.head_dim, b.rope_dim);
    std::vector<double> values;
    for (const uint8_t *end = row + StagedSizes(b, view, tokens).window; row < end; row += row_bytes) {
        const uint8_t *scales = row + nope + 2 * (b.head_dim - nope);
        for (int64_t k = 0; k < nope; k++) {
            const int exponent = row[k] >> 3 & 15, mantissa = row[k] & 7;
            const double value =
                std::ldexp(exponent ? 8 + mantissa : 2 * mantissa, exponent - 10 + scales[k / 64] - 127);
            values.push_back(row[k] & 128 ? -value : value);
        }
        for (int64_t k = nope; k < b.head_dim; k++) {
            uint16_t bits;
            std::memcpy(&bits, row + nope + 2 * (k - nope), 2);
            values.push_back(bf16_value(bits));
        }
    }
    return values;
}

// Sums in another order differ by single roundings: of bfloat16, or in released arithmetic and in packed rows of e4m3, an
// eighth of a value. Even if all values met one on the way in and one at the end, they were less than this share of their
// RMS apart; independent rows are 1.4 times it.
constexpr double SHARE = 0.25;

template <class T>
bool near(const T *one, const T *other, int64_t count) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        const double a = double(one[i]), b = double(other[i]);
        difference += (a - b) * (a - b), size += b * b;
    }
    return difference <= SHARE * SHARE * size;
}

bool near(const wf_block &b, const wf_view &view, int64_t tokens, const wf_staged &one, const wf_staged &other) {
    const StagedSizes sizes(b, view, tokens);
    const std::vector<double> rows = decoded(b, view, tokens, one.window),
                              others = decoded(b, view, tokens, other.window);
    return near(rows.data(), others.data(), int64_t(rows.size())) &&
           (!b.ratio || near(one.tail, other.tail, sizes.tail)) &&
           (!b.index_heads || near(one.key_tail, other.key_tail, sizes.key_tail));
}

// True if rows of that many tokens have the same bits in a pass of fewer.
bool promised(const Fuzz &fuzz, const Model &model, int64_t tokens) {
    if (fuzz.batch_invariant) return true;
    bool indexed = false;  // whether entries are chosen then depends on the last of a pass
    for (const wf_block &b : model.blocks) indexed = indexed || (b.index_heads && !b.released);
    return !fuzz.int8 && !indexed && fuzz.same_order(tokens * model.blocks[0].topk);
}

void spoil(Fuzz &fuzz, const Model &model, wf_span &span, std::vector<wf_staged> &marked) {
    const size_t l = size_t(fuzz.below(int64_t(marked.size())));
    const int64_t marks[] = {0, -1 - fuzz.below(100), span.tokens + 1, int64_t(1) << 40, INT64_MIN, INT64_MAX};
    switch (fuzz.below(6)) {
        case 0: marked[l].window = nullptr; break;
        case 1:
            if (model.blocks[l].index_heads) marked[l].key_tail = nullptr;
            else if (model.blocks[l].ratio) marked[l].tail = nullptr;
            else marked[l].window = nullptr;
            break;
        default: span.mark = marks[fuzz.below(6)];
    }
}

}  // namespace

bool fuzz_marks(Fuzz &fuzz) {
    fuzz.batch_invariant = fuzz.below(2), fuzz.int8 = fuzz.below(2);
    Held held = {fuzz, true, {}};
    const int64_t hidden = 1 + fuzz.below(60), streams = 1 + fuzz.below(4), topk = 1 + fuzz.below(3);
    Model model(held, hidden, streams, topk, 1 + fuzz.below(3));
    Sequences sequences(held, model);
    std::vector<wf_span> &spans = sequences.spans;
    const size_t one = size_t(fuzz.below(int64_t(spans.size())));
    spans[one].marked = sequences.marked[one].data();  // if no other
    for (size_t s = 0; s < spans.size(); s++)
        for (size_t l = 0; l < model.blocks.size(); l++) {
            Unmarked::clear(model.blocks[l], spans[s].views[l], spans[s].tokens, sequences.staged[s][l]);
            Unmarked::clear(model.blocks[l], spans[s].views[l], spans[s].mark, sequences.marked[s][l]);
        }
    auto ids = ids_of(fuzz, sequences.tokens, model.whole.head.rows);
    const Unmarked parts(held, model, sequences, ids.get(), true), plain(held, model, sequences, ids.get(), false);
    Outputs of_parts(fuzz, model, parts.tokens), without(fuzz, model, plain.tokens), with(fuzz, without);
    const auto failed = [&](const std::string &what) { return fuzz.message = "marks: " + what, false; };
    const auto call = [&](const std::vector<wf_span> &given, const int64_t *tokens, Outputs &to) {
        const wf_wanted wanted = to.wanted();
        return wf_forward(fuzz.runtime(), &model.whole, int64_t(given.size()), given.data(), tokens, &wanted);
    };
    if (call(parts.spans, parts.ids.get(), of_parts) || call(plain.spans, ids.get(), without))
        return failed("an error without marks");
    if (const int error = call(spans, ids.get(), with)) return failed("error " + std::to_string(error));
    const bool same_hidden = !std::memcmp(with.hidden.get(), without.hidden.get(), size_t(2 * with.hidden_values));
    if (!with.same(without) || !same_hidden) return failed("other answers than without marks");
    const bool bits = promised(fuzz, model, sequences.tokens);
    for (size_t s = 0; s < spans.size(); s++)
        for (size_t l = 0; l < model.blocks.size(); l++) {
            const wf_block &b = model.blocks[l];
            const wf_view &view = spans[s].views[l];
            const wf_staged &marked = sequences.marked[s][l], &part = parts.staged[s][l];
            if (spans[s].staged && !same(b, view, spans[s].tokens, sequences.staged[s][l], plain.staged[s][l]))
                return failed("other rows are staged than without marks");
            if (!spans[s].marked) continue;
            // Without a promise, what the first layer keeps, before any choice that a rounding may turn.
            if (bits ? !same(b, view, spans[s].mark, marked, part)
                     : l == 0 && !near(b, view, spans[s].mark, marked, part))
                return failed("layer " + std::to_string(l) + " leaves other rows than a pass up to the mark");
        }
    spoil(fuzz, model, spans[one], sequences.marked[one]);
    return fuzz.refused("marks", call(spans, ids.get(), with));
}
