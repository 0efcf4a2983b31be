// y = x W^T for many rows of x in int8 and rows of blocks of 256 columns (blocks.h): 256 columns of 64 rows of the weight come
// apart, laid out by fours of columns, then meet every row of x while they are in the nearest cache. Sums stay integers over 256
// columns: words that share a scale are multiplied and summed, and scales multiply these sums; in float32 there are, in order,
//
//   t = sum * d      t -= minima * least, if the form has minima      y += t * the scale of x
//
// Q2_K's codes take their scales in beforehand, as do Q3_K's where codes are unsigned: their products are bytes.
#pragma once

#include "block_units.h"

namespace wf {

// Where the word i of a record lies in the strips of a unit: by scales, each of them in the order of the strips.
template <int FORM>
struct SortedWords {
    uint8_t of[STRIPS * WORDS];
    constexpr SortedWords() : of() {
        int count = 0;
        for (int scale = 0; scale < UNIT / scale_columns(FORM); scale++)
            for (int i = 0; i < STRIPS * WORDS; i++)
                if (block_column(FORM, i / WORDS, i % WORDS * 4) / scale_columns(FORM) == scale)
                    of[count++] = uint8_t(i);
    }
};

template <class S>
struct BlockGemm {
    using F = typename S::F;
    using U = typename S::U;
    using H = typename S::H;
    using B = typename S::B;
    using J = decltype(F{} > F{});  // int32 lanes
    using Forms = BlockForms<S>;
    static constexpr int L = S::LANES, R = S::BLOCK_ROWS, V = S::BLOCK_VECTORS;
    static constexpr int64_t T = INT8_TILE;
    static_assert(T % (V * L) == 0 && T % L == 0, "tiles are whole");

    struct Panel {
        alignas(64) uint32_t words[STRIPS * WORDS * T];  // [words of the strips][rows]
        alignas(64) uint32_t scales[16 * T];             // [scales][rows]
        alignas(64) uint32_t minima[8 * T];              // two in a word
        alignas(64) float d[T], least[T];
    };
    struct Scratch {
        alignas(64) float sums[INT8_ROWS * T];
        Panel panel;
    };
    static int64_t scratch_bytes() { return int64_t(sizeof(Scratch)); }

    // What is done with a form's sums.
    template <class Form>
    struct Traits {
        static constexpr int FORM = Form::FORM;
        static constexpr bool FOLDS = FORM == WF_Q2_K || (FORM == WF_Q3_K && S::OFFSET == 128);
        static constexpr int SCALES = FOLDS ? 1 : UNIT / scale_columns(FORM);
        static constexpr int PAIRS = has_minima(FORM) ? UNIT / scale_columns(FORM) / 2 : 0;
        // codes are that much too high (Q3_K: -4 .. 3 by -32 .. 31 is -124 .. 128)
        static constexpr int ABOVE = FOLDS && FORM == WF_Q3_K ? 127 : codes_above<S>(FORM);
    };

    static void multiply(const Int8Task &task, uint8_t *memory) {
        Multiply act = {task, *reinterpret_cast<Scratch *>(memory)};
        with_form<S>(task.weight->form, act);
    }
    static void record_row(const Matrix &m, const uint16_t *x, void *records, int64_t stride) {
        Record act = {m, x, static_cast<BlockRecord *>(records), stride};
        with_form<S>(m.form, act);
    }

  private:
    struct Multiply {
        const Int8Task &task;
        Scratch &scratch;
        template <class Form>
        WF_INLINE void run() {
            if constexpr (block_size(Form::FORM).values == UNIT) of_form<Form>(task, scratch);
        }
    };
    struct Record {
        const Matrix &m;
        const uint16_t *x;
        BlockRecord *records;
        int64_t stride;
        template <class Form>
        WF_INLINE void run() {
            if constexpr (block_size(Form::FORM).values == UNIT)
                for (int64_t u = 0; u < m.columns / UNIT; u++) record<Form>(x + u * UNIT, records[u * stride]);
        }
    };

    template <class Form>
    static void record(const uint16_t *x, BlockRecord &to) {
        constexpr int FORM = Form::FORM, EACH = scale_columns(FORM);
        static constexpr SortedWords<FORM> words;
        static constexpr BlockColumns<FORM> columns;
        const FixedUnit unit(x, UNIT, 1);
        for (int i = 0; i < UNIT; i++) to.codes[i] = int8_t(unit.codes[columns.of[4 * words.of[i / 4] + i % 4]]);
        int32_t sums[16] = {}, all = 0;
        for (int k = 0; k < UNIT; k++) sums[k / EACH] += unit.codes[k];
        for (int g = 0; g < 16; g++) all += sums[g], to.starts[g] = -Traits<Form>::ABOVE * sums[g];
        if (Traits<Form>::FOLDS) to.starts[0] = -Traits<Form>::ABOVE * all;
        for (int p = 0; p < 8; p++) to.sums[p] = uint32_t(sums[2 * p] & 0xFFFF) | uint32_t(sums[2 * p + 1]) << 16;
        to.scale = unit.scale;
    }

    template <class Form>
    static void of_form(const Int8Task &task, Scratch &scratch) {
        std::memset(scratch.sums, 0, size_t(4 * T * task.x_rows));
        const auto *x = static_cast<const BlockRecord *>(task.x);
        for (int64_t unit = 0; unit < task.weight->columns / UNIT; unit++, x += task.stride) {
            pack<Form>(task, unit, scratch.panel);
            by_tiles<R>(task.x_rows, [&](auto rows, int64_t r) {
                tile<Form, decltype(rows)::value>(x + r, scratch.panel, scratch.sums + r * T);
            });
        }
        for (int64_t r = 0; r < task.x_rows; r++) store_sums(task, r, scratch.sums + r * T);
    }

    // A line of a row: 64 words of codes, then scales and minima as bytes, d and least.
    static constexpr int HEAD = STRIPS * WORDS, LINE = HEAD + 16;

    template <class Form>
    static WF_INLINE void take_apart(const uint8_t *b, uint32_t *line) {
        alignas(64) static constexpr ScaleIndex<Form::FORM> index;
        const Head head = Form::head(b);
        const auto scales = S::words(head.scales);
#pragma GCC unroll 4
        for (int at = 0; at < STRIP; at += 4 * L) {
            B w[STRIPS];
            constexpr bool SCALED = S::SHUFFLES_ALL && Form::FORM == WF_Q2_K;
            if constexpr (SCALED) S::q2_k_scaled(b, w);
            else Form::codes(b, at, w);
#pragma GCC unroll 4
            for (int v = 0; v < STRIPS; v++) {
                if constexpr (Traits<Form>::FOLDS &&
                              !SCALED) {  // two codes at a time: nothing goes from one to the other but what cancels
                    const H both = (H)w[v], by = S::pick(scales, index.pairs[v] + at / 2);
                    if constexpr (Form::FORM == WF_Q3_K)
                        w[v] = (B)((both - uint16_t(4 * 257)) * by + uint16_t(127 * 257));
                    else w[v] = (B)(both * by);
                }
                S::write(line + WORDS * v + at / 4, w[v]);
            }
        }
        const uint64_t bytes[4] = {head.scales.first, head.scales.last, head.minima.first, head.minima.last};
        std::memcpy(line + HEAD, bytes, sizeof bytes);
        std::memcpy(line + HEAD + 8, &head.d, sizeof head.d);
        std::memcpy(line + HEAD + 9, &head.least, sizeof head.least);
    }

    // Rows beyond `count` are zero.
    template <class Form>
    static void pack(const Int8Task &task, int64_t unit, Panel &panel) {
        constexpr int64_t SIZE = block_size(Form::FORM).bytes;
        const int64_t row_bytes = task.weight->row_bytes();
        const uint8_t *first = task.weight->codes + task.first * row_bytes + unit * SIZE;
        for (int64_t n = 0; n < T; n += L) {
            alignas(64) uint32_t lines[L * LINE], heads[16 * L];
            for (int64_t i = 0; i < L; i++) {
                if (n + i < task.count) take_apart<Form>(first + (n + i) * row_bytes, lines + i * LINE);
                else std::memset(lines + i * LINE, 0, 4 * LINE);
            }
            for (int64_t line = 0; line < L * SIZE && task.next; line += 64)
                __builtin_prefetch(task.next + (unit * T + n) * SIZE + line, 0, 2);
            for (int64_t k = 0; k < HEAD; k += L) S::transpose(lines + k, LINE, panel.words + k * T + n, T);
            for (int64_t k = 0; k < 16; k += L) S::transpose(lines + HEAD + k, LINE, heads + k * L, L);
            widen<Form>(heads, panel, n);
        }
    }

    template <class Form>
    static WF_INLINE void widen(const uint32_t *heads, Panel &panel, int64_t n) {
        using Of = Traits<Form>;
        for (int g = 0; !Of::FOLDS && g < Of::SCALES; g++) {
            const J scale = (J)(S::pairs(heads + g / 4 * L) << (24 - g % 4 * 8)) >> 24;
            S::write(panel.scales + g * T + n, (U)scale);
        }
        for (int p = 0; p < Of::PAIRS; p++) {
            const U two = S::pairs(heads + (4 + p / 2) * L) >> (p % 2 * 16);
            S::write(panel.minima + p * T + n, (two & 0xFF) | (two & 0xFF00) << 8);
        }
        std::memcpy(panel.d + n, heads + 8 * L, 4 * L);
        std::memcpy(panel.least + n, heads + 9 * L, 4 * L);
    }

    template <class Form, int N>
    static WF_INLINE void tile(const BlockRecord *x, const Panel &panel, float *sums) {
        using Of = Traits<Form>;
        for (int64_t n = 0; n < T; n += V * L) {
            U totals[N][V] = {};
            dots<Form, N>(x, panel, n, totals);
            U minima[N][V] = {};
            for (int p = 0; p < Of::PAIRS; p++)
#pragma GCC unroll 4
                for (int j = 0; j < V; j++) {
                    const U two = S::pairs(panel.minima + p * T + n + j * L);
#pragma GCC unroll 8
                    for (int r = 0; r < N; r++)
                        minima[r][j] = S::dot_pairs(minima[r][j], two, S::all_pairs(x[r].sums[p]));
                }
#pragma GCC unroll 8
            for (int r = 0; r < N; r++)
#pragma GCC unroll 4
                for (int j = 0; j < V; j++) {
                    F part = S::floats(totals[r][j]) * S::load(panel.d + n + j * L);
                    if (Of::PAIRS) part = part - S::floats(minima[r][j]) * S::load(panel.least + n + j * L);
                    float *sum = sums + r * T + n + j * L;
                    S::store(sum, S::fma(part, S::all(x[r].scale), S::load(sum)));
                }
        }
    }

    // totals += the scales by the dot products of their words.
    template <class Form, int N>
    static WF_INLINE void dots(const BlockRecord *x, const Panel &panel, int64_t n, U (&totals)[N][V]) {
        static constexpr SortedWords<Form::FORM> words;
        constexpr int SCALES = Traits<Form>::SCALES, EACH = STRIPS * WORDS / SCALES;
        for (int g = 0; g < SCALES; g++) {
            U sum[N][V];
#pragma GCC unroll 8
            for (int r = 0; r < N; r++) {
                const U start = Traits<Form>::ABOVE ? S::all_pairs(uint32_t(x[r].starts[g])) : U{};
#pragma GCC unroll 4
                for (int j = 0; j < V; j++) sum[r][j] = start;
            }
#pragma GCC unroll 8
            for (int i = g * EACH; i < (g + 1) * EACH; i++) {
                const uint32_t *from = panel.words + words.of[i] * T + n;
                B w[V];
#pragma GCC unroll 4
                for (int j = 0; j < V; j++) w[j] = (B)S::pairs(from + j * L);
#pragma GCC unroll 8
                for (int r = 0; r < N; r++) {
                    const B four = (B)S::all_pairs(S::template read<uint32_t>(x[r].codes + 4 * i));
#pragma GCC unroll 4
                    for (int j = 0; j < V; j++) sum[r][j] = S::dot4(sum[r][j], w[j], four);
                }
            }
#pragma GCC unroll 4
            for (int j = 0; j < V; j++) {
                const U scale = SCALES > 1 ? S::pairs(panel.scales + g * T + n + j * L) : U{};
#pragma GCC unroll 8
                for (int r = 0; r < N; r++) totals[r][j] += SCALES > 1 ? sum[r][j] * scale : sum[r][j];
            }
        }
    }
};

template <class S>
constexpr ManyRows many_rows() {
    using Gemm = BlockGemm<S>;
    return {Gemm::record_row, Gemm::scratch_bytes, Gemm::multiply, BlockUnits<S>::take_apart};
}

}  // namespace wf
