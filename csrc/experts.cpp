// The routed and shared experts of a layer (wavefold/model/moe.py): for a few tokens all experts side by side, for many one
// after another, each weight read once.
#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "experts.h"
#include "rowwise.h"
#include "simd.h"

namespace wf {
namespace {

constexpr int64_t PART = 256;         // columns of the sum that a thread takes at a time
constexpr int64_t SIDE_BY_SIDE = 64;  // tokens up to which all experts are computed together

// gate clamped, silu(gate) * up * route, rounded: `n` values of a token.
WF_CLONES void swiglu(const uint16_t *gate, const uint16_t *up, float route, float limit, int64_t n, uint16_t *out) {
    using S = Vector<16>;
    constexpr int L = S::LANES;
    for (int64_t k = 0; k < n; k += L) {
        float g[L] = {}, u[L] = {}, minus[L], e[L];
        uint16_t y[L];
        const int count = int(n - k < L ? n - k : L);
        for (int l = 0; l < count; l++) g[l] = bf16_to_float(gate[k + l]), u[l] = bf16_to_float(up[k + l]);
        for (int l = 0; l < L; l++) {
            g[l] = g[l] > limit ? limit : g[l];
            u[l] = u[l] > limit ? limit : u[l] < -limit ? -limit : u[l];
            minus[l] = g[l] > 0 ? -g[l] : g[l];
        }
        S::store(e, S::exp(S::load(minus)));
        for (int l = 0; l < L; l++) {
            const float sigmoid = (g[l] > 0 ? 1.0f : e[l]) / (1 + e[l]);
            y[l] = float_to_bf16(g[l] * sigmoid * u[l] * route);
        }
        for (int l = 0; l < count; l++) out[k + l] = y[l];
    }
}

struct Mixture {
    Runtime &runtime;
    const int64_t tokens, hidden, topk;
    const uint16_t *h;
    const int64_t *chosen;
    const float *route;
    const float limit;
    const bool released;
    const std::vector<Adapted> &adapted;
    const Ahead next;

    // An expert's share: pairs first .. first + rows of token and weight.
    struct Share {
        const Expert *expert;
        int64_t first, rows, inter_first;
    };
    std::vector<Share> shares;
    std::vector<int64_t> token;
    std::vector<float> weight;

    void deal(const std::vector<Expert> &experts) {
        int64_t inter_first = 0;
        for (const Expert &expert : experts) {
            Share mine = {&expert, int64_t(token.size()), 0, inter_first};
            for (int64_t i = 0; i < tokens * topk; i++) {
                const bool shared = expert.id < 0;
                if (shared ? i % topk != 0 : chosen[i] != expert.id) continue;
                token.push_back(i / topk), weight.push_back(shared ? 1.0f : route[i]);
                mine.rows++;
            }
            if (!mine.rows) continue;
            inter_first += mine.rows * expert.w1.rows;
            shares.push_back(mine);
        }
    }

    // What adapters add to a matrix's output for shares begin .. stop: x and y of a pair, by its number from theirs on.
    template <class X, class Y>
    void adapt(size_t begin, size_t stop, std::initializer_list<int> which, const X &x, const Y &y) {
        if (adapted.empty()) return;
        std::vector<LowRank> parts;
        parts.reserve((stop - begin) * adapted.size() * which.size());
        std::vector<Addition> additions;
        for (size_t s = begin; s < stop; s++)
            for (const int number : which) {
                const Share &mine = shares[s];
                auto rows = adapted.begin();
                const LowRank *by = nullptr;
                for (int64_t p = 0; p < mine.rows; p++) {
                    const int64_t i = token[size_t(mine.first + p)];  // ascending
                    for (; rows != adapted.end() && i >= rows->first + rows->rows; ++rows) by = nullptr;
                    if (rows == adapted.end()) break;
                    if (i < rows->first) continue;
                    if (!by) parts.push_back(beside(rows->adapter, *mine.expert, number)), by = &parts.back();
                    if (by->rank) additions.push_back({by, x(s, p, by->columns), y(s, p, number, by->rows)});
                }
            }
        add_low_rank(runtime, additions);
    }

    // Shares begin .. stop through their experts and onto the sum; x, y [rows, hidden] and gate, up [rows, inter].
    bool add(size_t begin, size_t stop, uint16_t *x, uint16_t *gate, uint16_t *up, uint16_t *y, float *sum) {
        const int64_t pair = shares[begin].first, inter = shares[begin].inter_first;
        const int64_t pairs = shares[stop - 1].first + shares[stop - 1].rows - pair;
        // every expert reads the rows of h: of several tokens one expert alone, as a token may name an expert twice
        const bool alone = stop - begin == 1 && shares[begin].expert->id < 0;
        const bool same = alone || (tokens == 1 && pairs == int64_t(stop - begin));
        if (!same)
            runtime.each(
                pairs,
                [&](int64_t p, int) {
                    std::memcpy(x + p * hidden, h + token[size_t(pair + p)] * hidden, size_t(2 * hidden));
                },
                8);
        std::vector<Product> products;
        const auto product = [&](const Matrix &m, const uint16_t *from, int64_t rows, uint16_t *to) {
            products.push_back({m, from, rows, m.columns, released && rounds_x(m.form), nullptr, to, m.rows});
        };
        for (size_t s = stop; s-- > begin;) {  // the shared expert first, which waiting threads have read from
            const Share &mine = shares[s];
            const uint16_t *from = same ? h : x + (mine.first - pair) * hidden;
            product(mine.expert->w1, from, mine.rows, gate + mine.inter_first - inter);
            product(mine.expert->w3, from, mine.rows, up + mine.inter_first - inter);
        }
        if (!multiply(runtime, products.data(), int64_t(products.size()), {&shares[begin].expert->w2})) return false;
        const auto inner = [&](size_t s, int64_t p, int64_t width) {
            return shares[s].inter_first - inter + p * width;
        };
        adapt(
            begin, stop, {0, 2},
            [&](size_t s, int64_t p, int64_t width) {
                return same ? h + (alone ? p : 0) * width : x + (shares[s].first - pair + p) * width;
            },
            [&](size_t s, int64_t p, int which, int64_t width) { return (which ? up : gate) + inner(s, p, width); });
        runtime.each(pairs, [&](int64_t p, int) {
            size_t s = begin;
            while (pair + p >= shares[s].first + shares[s].rows) s++;
            const Share &mine = shares[s];
            const int64_t n = mine.expert->w1.rows, at = mine.inter_first - inter + (pair + p - mine.first) * n;
            swiglu(gate + at, up + at, weight[size_t(pair + p)], limit, n, gate + at);
        });
        products.clear();
        for (size_t s = begin; s < stop; s++)
            product(shares[s].expert->w2, gate + shares[s].inter_first - inter, shares[s].rows,
                    y + (shares[s].first - pair) * hidden);
        if (!multiply(runtime, products.data(), int64_t(products.size()), next)) return false;
        adapt(
            begin, stop, {1}, [&](size_t s, int64_t p, int64_t width) { return gate + inner(s, p, width); },
            [&](size_t s, int64_t p, int, int64_t width) { return y + (shares[s].first - pair + p) * width; });
        runtime.each((hidden + PART - 1) / PART,
                     [&](int64_t part, int) {
                         const int64_t low = part * PART, high = std::min(low + PART, hidden);
                         for (int64_t p = 0; p < pairs; p++)
                             wf::add(y + p * hidden + low, high - low, sum + token[size_t(pair + p)] * hidden + low);
                     },
                     2);
        return true;
    }

    // `sums` unless null: the sum so far, which goes on. `out` unless null takes the rounded sum.
    bool run(uint16_t *out, float *sums) {
        const bool together = tokens <= SIDE_BY_SIDE;
        int64_t pairs = 1, inter = 1;
        for (const Share &share : shares) {
            const int64_t mine = share.rows * share.expert->w1.rows;
            pairs = together ? pairs + share.rows : std::max(pairs, share.rows);
            inter = together ? inter + mine : std::max(inter, mine);
        }
        uint16_t *x, *gate, *up, *y;
        float *sum;
        const auto lay_out = [&](Arena arena) {
            x = arena.take<uint16_t>(pairs * hidden);
            y = arena.take<uint16_t>(pairs * hidden);
            gate = arena.take<uint16_t>(inter);
            up = arena.take<uint16_t>(inter);
            sum = arena.take<float>(sums ? 0 : tokens * hidden);
            return arena.used();
        };
        void *memory = runtime.scratch(lay_out(Arena(nullptr)), 1);
        if (!memory) return false;
        lay_out(Arena(memory));
        if (sums) sum = sums;
        else std::memset(sum, 0, size_t(4 * tokens * hidden));
        for (size_t begin = 0; begin < shares.size();) {
            const size_t stop = together ? shares.size() : begin + 1;
            if (!add(begin, stop, x, gate, up, y, sum)) return false;
            begin = stop;
        }
        if (!out) return true;
        runtime.each((tokens * hidden + PART - 1) / PART,
                     [&](int64_t part, int) {
                         const int64_t low = part * PART, high = std::min(low + PART, tokens * hidden);
                         wf::round(sum + low, high - low, out + low);
                     },
                     16);
        return true;
    }
};

}  // namespace

bool mix_experts(Runtime &runtime, const Mix &mix, const std::vector<Expert> &experts, const Ahead &next) {
    Mixture mixture = {runtime,   mix.tokens,   mix.hidden,   mix.topk, mix.h, mix.chosen, mix.route,
                       mix.limit, mix.released, *mix.adapted, next,     {},    {},         {}};
    mixture.deal(experts);
    return mixture.run(mix.out, mix.sum);
}

}  // namespace wf
