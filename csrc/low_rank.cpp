#include "low_rank.h"

#include <algorithm>

#include "api.h"
#include "simd.h"

namespace wf {
namespace {

using S = Vector<16>;
constexpr int L = S::LANES;
constexpr int ROWS = 4;                  // of x that meet a part of A together
constexpr int SUMS = 16;                 // rows of x times rows of A that are summed together, at most 8 of A
constexpr int64_t MOST_AHEAD = 1 << 15;  // bytes of A that are asked for before their turn
constexpr int64_t PARTS = 512;           // rows of B that are worth a task of their own

typedef uint16_t Half __attribute__((vector_size(2 * L)));

WF_INLINE S::F widen(const uint16_t *from) { return S::bits(__builtin_convertvector(S::read<Half>(from), S::U) << 16); }

// As float_to_bf16.
WF_INLINE void narrow(uint16_t *to, S::F value) {
    const S::U word = (S::U)value, rounded = (word + 0x7FFF + (word >> 16 & 1)) >> 16;
    const S::U wide = (word & 0x7FFFFFFF) > 0x7F800000 ? (word >> 16 | 0x40) : rounded;
    S::write(to, __builtin_convertvector(wide, Half));
}

template <int FORM>
WF_INLINE S::F read(const uint8_t *from, int64_t at) {
    if (FORM == WF_BF16) return widen(reinterpret_cast<const uint16_t *>(from) + at);
    return S::load(reinterpret_cast<const float *>(from) + at);
}

WF_INLINE float value(const LowRank &by, const uint8_t *from, int64_t at) {
    float wide;
    if (by.form == WF_BF16) return bf16_to_float(reinterpret_cast<const uint16_t *>(from)[at]);
    __builtin_memcpy(&wide, from + 4 * at, 4);
    return wide;
}

// t[row][r] = scale * (A x)[r] for R rows of x and N rows of A from r on.
template <int FORM, int R, int N>
WF_INLINE void down_tile(const LowRank &by, const Addition *rows, int64_t r, float (*t)[MOST_RANK]) {
    S::F sums[R][N] = {};
    int64_t k = 0;
    for (; k + L <= by.columns; k += L) {
        S::F x[R];
#pragma GCC unroll 4
        for (int i = 0; i < R; i++) x[i] = widen(rows[i].x + k);
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            const S::F a = read<FORM>(by.down, (r + n) * by.columns + k);
#pragma GCC unroll 4
            for (int i = 0; i < R; i++) sums[i][n] = sums[i][n] + a * x[i];
        }
    }
    for (int i = 0; i < R; i++)
        for (int n = 0; n < N; n++) {
            float sum = S::sum(sums[i][n]);
            for (int64_t j = k; j < by.columns; j++)
                sum += value(by, by.down, (r + n) * by.columns + j) * bf16_to_float(rows[i].x[j]);
            t[i][r + n] = sum * by.scale;
        }
}

template <int FORM, int R>
WF_INLINE void down_rows(const LowRank &by, const Addition *rows, float (*t)[MOST_RANK]) {
    by_tiles<(SUMS / R < 8 ? SUMS / R : 8)>(
        by.rank, [&](auto n, int64_t r) __attribute__((always_inline)) { down_tile<FORM, R, n()>(by, rows, r, t); });
}

// Asks for outputs first .. end of B, which is read after A: an adapter is read once a pass, in small pieces.
template <int FORM>
WF_INLINE void ask_up(const LowRank &by, int64_t first, int64_t end) {
    constexpr int64_t SIZE = FORM == WF_BF16 ? 2 : 4, LINE = 64;
    for (int64_t r = 0; r < by.rank; r++)
        for (int64_t at = (r * by.rows + first) * SIZE; at < (r * by.rows + end) * SIZE; at += LINE)
            __builtin_prefetch(by.up + at);
}

// Asks for A of a task that comes soon.
void ask_down(const LowRank &by) {
    const int64_t bytes = by.rank * by.columns * (by.form == WF_BF16 ? 2 : 4);
    for (int64_t at = 0; at < std::min(bytes, MOST_AHEAD); at += 64) __builtin_prefetch(by.down + at);
}

// y[first .. end] += B t, for R rows.
template <int FORM, int R>
WF_INLINE void up_rows(const LowRank &by, const Addition *rows, int64_t first, int64_t end,
                       const float (*t)[MOST_RANK]) {
    int64_t n = first;
    for (; n + L <= end; n += L) {
        S::F sums[R] = {};
        for (int64_t r = 0; r < by.rank; r++) {
            const S::F b = read<FORM>(by.up, r * by.rows + n);
#pragma GCC unroll 4
            for (int i = 0; i < R; i++) sums[i] = sums[i] + b * t[i][r];
        }
        for (int i = 0; i < R; i++) narrow(rows[i].y + n, widen(rows[i].y + n) + sums[i]);
    }
    for (; n < end; n++)
        for (int i = 0; i < R; i++) {
            float sum = 0;
            for (int64_t r = 0; r < by.rank; r++) sum += value(by, by.up, r * by.rows + n) * t[i][r];
            rows[i].y[n] = float_to_bf16(bf16_to_float(rows[i].y[n]) + sum);
        }
}

template <int FORM>
WF_INLINE void add_rows_of(const Addition *rows, int64_t count, int64_t first, int64_t end) {
    const LowRank &by = *rows[0].by;
    float t[ROWS][MOST_RANK];
    ask_up<FORM>(by, first, end);
    if (count == ROWS) {
        down_rows<FORM, ROWS>(by, rows, t);
        up_rows<FORM, ROWS>(by, rows, first, end, t);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        down_rows<FORM, 1>(by, rows + i, t);
        up_rows<FORM, 1>(by, rows + i, first, end, t);
    }
}

// `count` rows of one matrix, at most ROWS: outputs first .. end.
WF_CLONES void add_rows(const Addition *rows, int64_t count, int64_t first, int64_t end) {
    if (rows[0].by->form == WF_BF16) add_rows_of<WF_BF16>(rows, count, first, end);
    else add_rows_of<WF_FP32>(rows, count, first, end);
}

struct Cut {
    int64_t begin, count, first, end;
};

}  // namespace

int check_low_rank(const wf_low_rank &given, const Matrix &matrix, LowRank &checked) {
    checked = {given.form, given.rank, matrix.columns, matrix.rows, given.scale, nullptr, nullptr};
    if (given.rank == 0) return WF_OK;
    if (given.form != WF_BF16 && given.form != WF_FP32) return WF_ERROR_FORM;
    if (bad(given.rank, MOST_RANK)) return WF_ERROR_SHAPE;
    if (!given.down || !given.up) return WF_ERROR_NULL;
    const int64_t size = given.form == WF_BF16 ? 2 : 4;
    if (given.down_bytes != size * given.rank * matrix.columns || given.up_bytes != size * given.rank * matrix.rows)
        return WF_ERROR_BYTES;
    checked.down = static_cast<const uint8_t *>(given.down), checked.up = static_cast<const uint8_t *>(given.up);
    return WF_OK;
}

namespace {

int check_attention_adapter(const wf_adapter &given, const Block &block, Adapter &adapter) {
    if (const int error = check_low_rank(given.wq_a, block.wq_a, adapter.wq_a)) return error;
    if (const int error = check_low_rank(given.wq_b, block.wq_b, adapter.wq_b)) return error;
    if (const int error = check_low_rank(given.wkv, block.wkv, adapter.wkv)) return error;
    return check_low_rank(given.wo_b, block.wo_b, adapter.wo_b);
}

}  // namespace

int check_adapted(const wf_span *spans, int64_t count, int64_t layer, const Block &block,
                  std::vector<Adapted> &adapted) {
    adapted.clear();
    int64_t first = 0;
    for (int64_t s = 0; s < count; first += spans[s++].tokens) {
        if (!spans[s].adapter) continue;
        adapted.push_back({first, spans[s].tokens, {}, s});
        if (const int error = check_attention_adapter(spans[s].adapter[layer], block, adapted.back().adapter))
            return error;
    }
    return WF_OK;
}

int check_shared_adapter(const wf_adapter &given, const Expert &shared, Adapter &adapter) {
    adapter.experts = given.experts;
    if (const int error = check_low_rank(given.w1, shared.w1, adapter.w1)) return error;
    if (const int error = check_low_rank(given.w2, shared.w2, adapter.w2)) return error;
    return check_low_rank(given.w3, shared.w3, adapter.w3);
}

int check_expert_adapters(const std::vector<Adapted> &adapted, const std::vector<Expert> &experts) {
    LowRank checked;
    for (const Adapted &rows : adapted) {
        if (!rows.adapter.experts) continue;
        for (const Expert &expert : experts) {
            if (expert.id < 0) continue;
            const wf_low_rank *given = rows.adapter.experts + 3 * expert.id;
            const Matrix *matrices[] = {&expert.w1, &expert.w2, &expert.w3};
            for (int which = 0; which < 3; which++)
                if (const int error = check_low_rank(given[which], *matrices[which], checked)) return error;
        }
    }
    return WF_OK;
}

LowRank beside(const Adapter &adapter, const Expert &expert, int which) {
    const LowRank *shared[] = {&adapter.w1, &adapter.w2, &adapter.w3};
    if (expert.id < 0) return *shared[which];
    if (!adapter.experts) return {};
    const Matrix *matrices[] = {&expert.w1, &expert.w2, &expert.w3};
    LowRank routed;
    check_low_rank(adapter.experts[3 * expert.id + which], *matrices[which], routed);
    return routed;
}

void add_low_rank(Runtime &runtime, const std::vector<Addition> &additions) {
    const int64_t count = int64_t(additions.size()), threads = runtime.threads();
    if (!count) return;
    // a few rows are cut by outputs too: A x is computed by each part
    const bool cut = count < 2 * threads;
    std::vector<Cut> cuts;
    for (int64_t i = 0; i < count;) {
        const LowRank &by = *additions[size_t(i)].by;
        int64_t rows = 1;
        while (rows < ROWS && i + rows < count && additions[size_t(i + rows)].by == &by) rows++;
        const int64_t parts = cut ? std::clamp(by.rows / PARTS, int64_t(1), threads) : 1;
        for (int64_t part = 0; part < parts; part++)
            cuts.push_back({i, rows, by.rows * part / parts, by.rows * (part + 1) / parts});
        i += rows;
    }
    runtime.each(int64_t(cuts.size()), [&](int64_t item, int) {
        const Cut &cut_of = cuts[size_t(item)];
        if (item + threads < int64_t(cuts.size())) ask_down(*additions[size_t(cuts[size_t(item + threads)].begin)].by);
        add_rows(&additions[size_t(cut_of.begin)], cut_of.count, cut_of.first, cut_of.end);
    });
}

}  // namespace wf
