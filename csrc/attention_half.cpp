// The attention half of a block for new tokens of some sequences, and the choice of their experts: the same steps as
// wavefold/model/block.py, attention.py, compressor.py, indexer.py and router.py.
//
//   streams -> mixed, normed -> all tokens: low-rank query, kv, compressor rows -> entries that are complete, to the cache
//           -> a few hundred tokens at a time: queries, index choice, attention, output -> streams -> router
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "attention.h"
#include "attention_half.h"
#include "hyper.h"
#include "rowwise.h"

namespace wf {
namespace {

constexpr int64_t CHUNK_TOKENS = 384;  // queries of all heads that are held at a time
constexpr int64_t HEADS = 16;          // that a thread takes at a time

struct AttentionHalf {
    Runtime &runtime;
    const Block &block;
    const wf_block &g;
    const Span *const spans;
    const int64_t num_spans, n;  // tokens of all spans
    const std::vector<Adapted> &adapted;
    const bool released;
    const int64_t lora, half, width, index_width, chunk;

    float *mixes, *pre, *post, *comb, *angles, *rows, *key_rows, *scores;
    uint16_t *x, *f, *qr, *q, *kv, *o, *u, *index_q, *index_weights;
    int32_t *picked;
    Attend *attends;  // of the spans that meet a chunk
    Index *choices;

    AttentionHalf(Runtime &runtime_, const Block &block_, const Span *spans_, int64_t num_spans_, int64_t tokens,
                  const std::vector<Adapted> &adapted_)
        : runtime(runtime_), block(block_), g(*block_.given), spans(spans_), num_spans(num_spans_), n(tokens),
          adapted(adapted_), released(g.released), lora(block.wq_a.rows), half(g.rope_dim / 2),
          width(g.heads * g.head_dim), index_width(g.index_heads * block.keys.dim),
          chunk(n < CHUNK_TOKENS ? n : CHUNK_TOKENS) {}

    bool reserve() {
        Arena counting(nullptr);
        lay_out(counting);
        void *memory = runtime.scratch(counting.used(), 1);
        if (!memory) return false;
        Arena arena(memory);
        lay_out(arena);
        return true;
    }

    void lay_out(Arena &arena) {
        const int64_t J = g.streams;
        mixes = arena.take<float>(n * (2 * J + J * J));
        pre = arena.take<float>(n * J);
        post = arena.take<float>(n * J);
        comb = arena.take<float>(n * J * J);
        x = arena.take<uint16_t>(n * g.hidden);
        f = arena.take<uint16_t>(n * g.hidden);
        angles = arena.take<float>(n * g.rope_dim);
        qr = arena.take<uint16_t>(n * lora);
        kv = arena.take<uint16_t>(n * g.head_dim);
        rows = arena.take<float>(n * 2 * block.entries.width);
        key_rows = arena.take<float>(n * 2 * block.keys.width);
        index_weights = arena.take<uint16_t>(n * g.index_heads);
        scores = arena.take<float>(n * g.num_experts);
        q = arena.take<uint16_t>(chunk * width);
        o = arena.take<uint16_t>(chunk * width);
        u = arena.take<uint16_t>(chunk * block.wo_a.rows);
        index_q = arena.take<uint16_t>(chunk * index_width);
        picked = arena.take<int32_t>(chunk * g.index_topk);
        attends = arena.take<Attend>(std::min(num_spans, chunk));
        choices = arena.take<Index>(std::min(num_spans, chunk));
    }

    const Span &span_of(int64_t token) const {
        return *(std::upper_bound(spans, spans + num_spans, token,
                                  [](int64_t i, const Span &span) { return i < span.first; }) -
                 1);
    }

    Product product(const Matrix &m, const uint16_t *from, int64_t tokens, float *wide, uint16_t *rounded,
                    int64_t stride) const {
        return {m, from, tokens, m.columns, released && rounds_x(m.form), wide, rounded, stride};
    }

    // What a matrix's adapters add to y [count, ...] of tokens begin .. begin + count, of x [count, ...].
    struct Beside {
        LowRank Adapter::*part;
        const uint16_t *x;
        uint16_t *y;
    };
    void adapt(int64_t begin, int64_t count, std::initializer_list<Beside> parts) {
        if (adapted.empty()) return;
        std::vector<Addition> additions;
        for (const Beside &beside : parts)
            for (const Adapted &rows : adapted) {
                const LowRank &by = rows.adapter.*beside.part;
                const int64_t end = std::min(rows.first + rows.rows, begin + count);
                for (int64_t i = std::max(rows.first, begin); by.rank && i < end; i++)
                    additions.push_back({&by, beside.x + (i - begin) * by.columns, beside.y + (i - begin) * by.rows});
            }
        add_low_rank(runtime, additions);
    }

    // streams -> a sublayer's normalised input [n, hidden], and how its output returns.
    bool enter(const Mixer &mixer, const uint16_t *streams, uint16_t *h, float *post_, float *comb_,
               const Ahead &next) {
        const int64_t J = g.streams, all = J * g.hidden, outputs = mixer.fn.rows;
        const Product mix = {mixer.fn, streams, n, all, false, mixes, nullptr, outputs};
        if (!multiply(runtime, &mix, 1, next)) return false;
        runtime.each(n, [&](int64_t i, int) {
            const float factor = 1 / std::sqrt(sum_squares(streams + i * all, all) / float(all) + g.norm_eps);
            for (int64_t k = 0; k < outputs; k++) mixes[i * outputs + k] *= factor;
            hc_split({mixes, mixer.given->base, mixer.given->scale, int(J), g.iters, g.hc_eps, pre, post_, comb_}, i);
            hc_collapse({streams, pre, int(J), g.hidden, h}, i);
            rms_norm(h + i * g.hidden, mixer.given->norm, g.hidden, g.norm_eps, h + i * g.hidden);
        });
        return true;
    }

    // x -> low-rank queries, the new tokens' kv, compressor rows and index weights.
    bool project() {
        Product products[8];
        int64_t count = 0;
        products[count++] = product(block.wq_a, x, n, nullptr, qr, lora);
        products[count++] = product(block.wkv, x, n, nullptr, kv, g.head_dim);
        if (g.ratio) {
            const int64_t stride = 2 * block.entries.width;
            products[count++] = product(block.entries.wkv, x, n, rows, nullptr, stride);
            products[count++] = product(block.entries.wgate, x, n, rows + block.entries.width, nullptr, stride);
        }
        if (g.index_heads) {
            const int64_t stride = 2 * block.keys.width;
            products[count++] = product(block.keys.wkv, x, n, key_rows, nullptr, stride);
            products[count++] = product(block.keys.wgate, x, n, key_rows + block.keys.width, nullptr, stride);
            products[count++] = product(block.index_weights, x, n, nullptr, index_weights, g.index_heads);
        }
        if (!multiply(runtime, products, count, {&block.wq_b})) return false;
        adapt(0, n, {{&Adapter::wq_a, x, qr}, {&Adapter::wkv, x, kv}});
        const float index_scale = float(std::pow(double(block.keys.dim), -0.5) * std::pow(double(g.index_heads), -0.5));
        runtime.each(n, [&](int64_t i, int) {
            const Span &span = span_of(i);
            const int64_t position = span.position + i - span.first;
            rms_norm(qr + i * lora, g.q_norm, lora, g.norm_eps, qr + i * lora);
            rope_angles(position, g.frequencies, half, angles + i * g.rope_dim);
            uint16_t *mine = kv + i * g.head_dim;
            rms_norm(mine, g.kv_norm, g.head_dim, g.norm_eps, mine);
            rotate(mine, g.head_dim, angles + i * g.rope_dim, half, false);
            if (released) fp8_sim(mine, g.head_dim - g.rope_dim, KV_BLOCK, mine);
            if (g.ratio) add_bias(block.entries, rows + i * 2 * block.entries.width, position);
            if (!g.index_heads) return;
            add_bias(block.keys, key_rows + i * 2 * block.keys.width, position);
            uint16_t *weights = index_weights + i * g.index_heads;
            for (int64_t k = 0; k < g.index_heads; k++)
                weights[k] = float_to_bf16(bf16_to_float(weights[k]) * index_scale);
        });
        return true;
    }

    void add_bias(const Compressor &compressor, float *row, int64_t position) const {
        const float *bias = compressor.ape + position % g.ratio * compressor.width;
        for (int64_t k = 0; k < compressor.width; k++) row[compressor.width + k] += bias[k];
    }

    // Blocks that a token completes become entries.
    void compress() {
        int64_t complete = 0;
        for (int64_t r = 0; g.ratio && r < num_spans; r++)
            complete += spans[r].end() / g.ratio - spans[r].position / g.ratio;
        if (!complete) return;
        runtime.each(n, [&](int64_t i, int) {
            const Span &span = span_of(i);
            const wf_view &view = *span.view;
            const int64_t after = span.position + i - span.first + 1, entry = after / g.ratio - 1;
            if (after % g.ratio) return;
            store_entry(span, block.entries, rows, view.tail, view.tail_rows, entry, span.entries);
            if (g.index_heads)
                store_entry(span, block.keys, key_rows, view.key_tail, view.key_tail_rows, entry, span.keys);
        });
    }

    void store_entry(const Span &span, const Compressor &compressor, const float *all_rows, const float *tail,
                     int64_t tail_rows, int64_t entry, const Rows &stored) {
        const float *mine = all_rows + span.first * 2 * compressor.width;
        const int64_t width_ = compressor.width, dim = compressor.dim, ratio = g.ratio, begin = entry * ratio;
        const int64_t before = g.overlap && entry > 0 ? ratio : 0;
        uint16_t pooled[1 << 14];
        compress_rows(
            before + ratio, dim,
            [&](int64_t s, const float *&values, const float *&scores_) {
                const int64_t position = begin - before + s;
                const float *at = position < span.position ? tail + position % tail_rows * 2 * width_
                                                           : mine + (position - span.position) * 2 * width_;
                // the block before gives the first half of its channels, the own one the second
                values = at + (g.overlap && s >= before ? dim : 0);
                scores_ = values + width_;
            },
            pooled);
        rms_norm(pooled, compressor.norm, dim, g.norm_eps, pooled);
        float table[1 << 14];
        rope_angles(begin, g.frequencies, half, table);
        rotate(pooled, dim, table, half, false);
        if (released && &compressor == &block.keys) {
            hadamard(pooled, dim);
            fp4_sim(pooled, dim, INDEX_BLOCK);
        } else if (released) {
            fp8_sim(pooled, dim - g.rope_dim, KV_BLOCK, pooled);
        }
        encode_row(pooled, stored, stored.at(entry));
    }

    // Tokens begin .. begin + count: queries, attention, output f.
    bool attend_chunk(int64_t begin, int64_t count) {
        Product products[2] = {product(block.wq_b, qr + begin * lora, count, nullptr, q, width)};
        if (g.index_heads)
            products[1] = product(block.index_wq_b, qr + begin * lora, count, nullptr, index_q, index_width);
        if (!multiply(runtime, products, g.index_heads ? 2 : 1, {&block.wo_a})) return false;
        adapt(begin, count, {{&Adapter::wq_b, qr + begin * lora, q}});
        const int64_t heads = g.heads + g.index_heads;
        runtime.each(
            count * heads,
            [&](int64_t item, int) {
                const int64_t i = item / heads, head = item % heads;
                const float *table = angles + (begin + i) * g.rope_dim;
                if (head < g.heads) {
                    uint16_t *mine = q + (i * g.heads + head) * g.head_dim;
                    unit_rms_norm(mine, g.head_dim, g.norm_eps, released);
                    rotate(mine, g.head_dim, table, half, false);
                    return;
                }
                uint16_t *mine = index_q + i * index_width + (head - g.heads) * block.keys.dim;
                rotate(mine, block.keys.dim, table, half, false);
                if (!released) return;
                hadamard(mine, block.keys.dim);
                fp4_sim(mine, block.keys.dim, INDEX_BLOCK);
            },
            HEADS);
        if (!attend_spans(begin, count)) return false;
        runtime.each(
            count * g.heads,
            [&](int64_t item, int) {
                rotate(o + item * g.head_dim, g.head_dim, angles + (begin + item / g.heads) * g.rope_dim, half, true);
            },
            HEADS);
        return project_out(begin, count);
    }

    // The parts of all spans that lie in the chunk.
    bool attend_spans(int64_t begin, int64_t count) {
        int64_t num_attends = 0, num_choices = 0;
        for (const Span *span = &span_of(begin); span < spans + num_spans && span->first < begin + count; span++) {
            const int64_t first = std::max(span->first, begin),
                          stop = std::min(span->first + span->tokens, begin + count);
            Attend &job = attends[num_attends++] = attend_job(*span, first, stop - first, first - begin);
            const int64_t entries = g.ratio ? job.visible(job.queries - 1) : 0;
            // Few entries are all attended, in their order; chosen ones come best first. Which of the two a query meets
            // must not depend on the chunk that it is in.
            if (g.index_heads && entries > 0 && (released || runtime.batch_invariant || entries > g.index_topk)) {
                choices[num_choices++] = index_job(*span, job, first, first - begin);
                job.chosen = picked + (first - begin) * g.index_topk, job.most_chosen = g.index_topk;
            }
        }
        const AttentionKernels &kernels = runtime.attention();
        return (!num_choices || index(runtime, choices, num_choices, kernels)) &&
               attend(runtime, attends, num_attends, kernels);
    }

    // Tokens first .. first + count of all, rows `place` on of the chunk, that belong to one span.
    Attend attend_job(const Span &span, int64_t first, int64_t count, int64_t place) const {
        Attend job = {};
        job.queries = count, job.heads = g.heads, job.dim = g.head_dim, job.q = q + place * width, job.sink = g.sink;
        job.first = span.position + first - span.first, job.window = g.window;
        job.past = span.window, job.fresh = kv + span.first * g.head_dim, job.fresh_first = span.position;
        job.entries = span.entries, job.ratio = g.ratio, job.out = o + place * width;
        return job;
    }

    Index index_job(const Span &span, const Attend &job, int64_t first, int64_t place) const {
        Index choice = {};
        choice.queries = job.queries, choice.heads = g.index_heads, choice.dim = block.keys.dim;
        choice.q = index_q + place * index_width, choice.weights = index_weights + first * g.index_heads;
        choice.keys = span.keys, choice.first = job.first, choice.ratio = g.ratio;
        choice.k = g.index_topk, choice.released = released, choice.out = picked + place * g.index_topk;
        return choice;
    }

    // o through the groups' matrices and out.
    bool project_out(int64_t begin, int64_t count) {
        const int64_t rows_ = block.wo_a.rows / g.groups, columns = width / g.groups;
        constexpr int64_t MOST = 64;
        for (int64_t first = 0; first < g.groups; first += MOST) {
            Product products[MOST];
            const int64_t some = std::min(g.groups - first, MOST);
            for (int64_t i = 0; i < some; i++) {
                Matrix part = block.wo_a;
                const int64_t group = first + i;
                part.rows = rows_;
                part.codes += group * rows_ * part.row_bytes();
                if (part.form == WF_FP4) part.scales += group * rows_ * part.row_scales();
                if (part.form == WF_FP8) part.scales += group * rows_ / 128 * part.row_scales();
                products[i] = {part,    o + group * columns, count,          width, false,
                               nullptr, u + group * rows_,   block.wo_a.rows};
            }
            if (!multiply(runtime, products, some, {&block.wo_b})) return false;
        }
        const Product out = product(block.wo_b, u, count, nullptr, f + begin * g.hidden, g.hidden);
        if (!multiply(runtime, &out, 1, {&block.experts.fn})) return false;
        adapt(begin, count, {{&Adapter::wo_b, u, f + begin * g.hidden}});
        return true;
    }

    // Which experts the tokens go to, and with what weights.
    bool choose(const uint16_t *h, const int64_t *ids, float *route, int64_t *chosen, const Ahead &next) {
        const Product gate = {block.gate, h, n, g.hidden, false, scores, nullptr, g.num_experts};
        if (!multiply(runtime, &gate, 1, next)) return false;
        runtime.each(n, [&](int64_t i, int) {
            float *mine = scores + i * g.num_experts, sum = 0;
            for (int64_t e = 0; e < g.num_experts; e++)
                mine[e] = std::sqrt(mine[e] > 20 ? mine[e] : std::log1p(std::exp(mine[e])));
            int64_t *experts = chosen + i * g.topk;
            if (g.gate_bias) best_experts(mine, experts);
            else std::copy_n(g.gate_table + ids[i] * g.topk, g.topk, experts);
            for (int64_t k = 0; k < g.topk; k++) sum += mine[experts[k]];
            for (int64_t k = 0; k < g.topk; k++) route[i * g.topk + k] = mine[experts[k]] / sum * g.route_scale;
        });
        return true;
    }

    // The best by score + bias, the earlier of equals.
    void best_experts(const float *mine, int64_t *experts) const {
        for (int64_t k = 0; k < g.topk; k++) {
            int64_t best = -1;
            for (int64_t e = 0; e < g.num_experts; e++) {
                if (std::find(experts, experts + k, e) != experts + k) continue;
                if (best < 0 || mine[e] + g.gate_bias[e] > mine[best] + g.gate_bias[best]) best = e;
            }
            experts[k] = best;
        }
    }

    bool run(const Passed &pass, const Ahead &next) {
        const uint16_t *const streams = pass.streams;
        if (!reserve() || !enter(block.attention, streams, x, post, comb, {&block.wq_a, &block.wkv}) || !project())
            return false;
        compress();
        for (int64_t begin = 0; begin < n; begin += chunk)
            if (!attend_chunk(begin, std::min(chunk, n - begin))) return false;
        keep();
        runtime.each(
            n, [&](int64_t i, int) { hc_expand({f, streams, post, comb, int(g.streams), g.hidden, pass.mixed}, i); });
        return enter(block.experts, pass.mixed, pass.h, pass.post, pass.comb, {&block.gate}) &&
               choose(pass.h, pass.ids, pass.route, pass.chosen, next);
    }

    // The last rows of every span stay where the next pass finds them.
    void keep() {
        runtime.each(n, [&](int64_t i, int) {
            const Span &span = span_of(i);
            const wf_view &view = *span.view;
            const int64_t token = i - span.first;
            keep_in_window(span, token);
            if (g.ratio)
                keep_in_tail(span, token, block.entries, rows, {view.tail, view.tail_rows}, span.staged.tail,
                             span.marked.tail);
            if (g.index_heads)
                keep_in_tail(span, token, block.keys, key_rows, {view.key_tail, view.key_tail_rows},
                             span.staged.key_tail, span.marked.key_tail);
        });
    }

    // The place of a token's row among the last `rows` of the first `tokens` tokens, oldest first; negative: none.
    static int64_t place_of(int64_t token, int64_t tokens, int64_t rows) {
        return token < tokens ? token - (tokens - std::min(tokens, rows)) : -1;
    }

    void keep_in_window(const Span &span, int64_t token) {
        const Rows &window = span.window;
        const uint16_t *row = kv + (span.first + token) * g.head_dim;
        const int64_t place = place_of(token, span.tokens, window.num_rows),
                      marked = place_of(token, span.mark, window.num_rows);
        uint8_t *const staged = span.staged.window;
        if (place >= 0)
            encode_row(row, window, staged ? staged + place * window.row_bytes : window.at(span.position + token));
        if (marked >= 0) encode_row(row, window, span.marked.window + marked * window.row_bytes);
    }

    struct Tail {
        float *ring;
        int64_t rows;
    };

    void keep_in_tail(const Span &span, int64_t token, const Compressor &compressor, const float *all_rows, Tail tail,
                      float *staged, float *to_mark) {
        const int64_t width = 2 * compressor.width;
        const float *row = all_rows + (span.first + token) * width;
        const int64_t place = place_of(token, span.tokens, tail.rows), marked = place_of(token, span.mark, tail.rows);
        const auto put = [&](float *to) { std::memcpy(to, row, size_t(4 * width)); };
        if (place >= 0) put(staged ? staged + place * width : tail.ring + (span.position + token) % tail.rows * width);
        if (marked >= 0) put(to_mark + marked * width);
    }
};

}  // namespace

bool attention_half(Runtime &runtime, const Block &block, const Span *spans, int64_t num_spans, int64_t tokens,
                    const Passed &pass, const Ahead &next) {
    return AttentionHalf(runtime, block, spans, num_spans, tokens, *pass.adapted).run(pass, next);
}

int check_table(const wf_block &block, const int64_t *ids, int64_t tokens) {
    if (block.gate_bias) return WF_OK;
    for (int64_t i = 0; i < tokens; i++) {
        if (ids[i] < 0 || ids[i] >= block.vocabulary) return WF_ERROR_SHAPE;
        for (int64_t k = 0; k < block.topk; k++) {
            const int64_t expert = block.gate_table[ids[i] * block.topk + k];
            if (expert < 0 || expert >= block.num_experts) return WF_ERROR_SHAPE;
        }
    }
    return WF_OK;
}

}  // namespace wf
