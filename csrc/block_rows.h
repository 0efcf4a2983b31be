// Few rows of x with rows of blocks (blocks.h): a unit of 256 columns of a row comes apart once for all rows of x. The steps of
// a row of x are the same whatever other rows there are.
#pragma once

#include "block_f16.h"
#include "block_forms.h"

namespace wf {

template <class S>
struct BlockRows {
    using F = typename S::F;
    using U = typename S::U;
    using H = typename S::H;
    using B = typename S::B;
    using Forms = BlockForms<S>;
    static constexpr int L = S::LANES;

    template <class Form>
    static constexpr int unit_bytes() {
        return UNIT / block_size(Form::FORM).values * block_size(Form::FORM).bytes;
    }

    template <int D>
    static WF_INLINE F total_of(const U (&digits)[D]) {
        F total = S::to_floats(digits[0]);
#pragma GCC unroll 3
        for (int d = 1; d < D; d++) total = S::fma(total, S::all(256.0f), S::to_floats(digits[d]));
        return total;
    }

    // A part of a unit, from byte `at` of its strips on: codes and their scales.
    template <class Form>
    struct Part {
        static constexpr int GROUPS = strip_groups(Form::FORM);
        B w[STRIPS];
        F scale[GROUPS];
    };
    template <class Form>
    struct WholePart {
        B w[STRIPS];
        H scale[STRIPS];
        F least;
        float d;
    };

    // Codes that have taken their integer scales in.
    template <class Form>
    struct FoldedPart {
        B w[STRIPS];
        F least;
        float d;
    };

    template <class Form>
    static WF_INLINE auto part_of(const uint8_t *b, int at) {
        alignas(64) static constexpr ScaleIndex<Form::FORM> index;
        if constexpr (S::SHUFFLES_ALL && Form::FORM == WF_Q2_K) {
            FoldedPart<Form> part;
            part.least = S::q2_k_minima(b), part.d = S::half(b + 80);
            S::q2_k_scaled(b, part.w);
            return part;
        } else if constexpr (has_integer_scales(Form::FORM)) {
            WholePart<Form> part;
            const Head head = Form::head(b);
            Form::codes(b, at, part.w);
            const auto scales = S::words(head.scales);
#pragma GCC unroll 4
            for (int v = 0; v < STRIPS; v++) part.scale[v] = S::pick(scales, index.pairs[v] + at / 2);
            part.least = S::part(S::floats_of(head.minima, -head.least), at), part.d = head.d;
            return part;
        } else {
            Part<Form> part;
            const auto scales = Form::scales(b);
            Form::codes(b, at, part.w);
#pragma GCC unroll 4
            for (int g = 0; g < Part<Form>::GROUPS; g++) part.scale[g] = S::pick(scales, index.words[g] + at / 4);
            return part;
        }
    }

    template <class Form>
    static WF_INLINE U dot(U sum, const WholePart<Form> &part, int v, const int8_t *x) {
        return S::dot_scaled(sum, part.w[v], x, part.scale[v]);
    }
    template <class Form>
    static WF_INLINE U dot(U sum, const FoldedPart<Form> &part, int v, const int8_t *x) {
        return S::template dot_block<false>(sum, part.w[v], x);
    }

    // sum[r] += a part of a unit, of which sums stay integers over all strips.
    template <class Form, class P, int R, int D>
    static WF_INLINE void add_whole(const P &part, int at, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            U digits[D] = {};
#pragma GCC unroll 4
            for (int v = 0; v < STRIPS; v++)
#pragma GCC unroll 3
                for (int d = 0; d < D; d++) digits[d] = dot(digits[d], part, v, x[r].digits[d] + STRIP * v + at);
            sum[r] = S::fma(total_of<D>(digits), S::all(part.d * x[r].scale), sum[r]);
            sum[r] = S::fma(part.least, S::load(x[r].sums + at / 4), sum[r]);
        }
    }
    template <class Form, int R, int D>
    static WF_INLINE void add(const WholePart<Form> &part, int at, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
        add_whole<Form>(part, at, x, sum);
    }
    template <class Form, int R, int D>
    static WF_INLINE void add(const FoldedPart<Form> &part, int at, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
        add_whole<Form>(part, at, x, sum);
    }
    template <class Form, int R, int D>
    static WF_INLINE void add(const Part<Form> &part, int at, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
        constexpr int GROUPS = Part<Form>::GROUPS, EACH = STRIPS / GROUPS;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            F all = {};
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) {
                U digits[D];
#pragma GCC unroll 3
                for (int d = 0; d < D; d++) {
                    digits[d] = S::OFFSET ? S::template read<U>(x[r].starts[d][g] + at / 4) : U{};
#pragma GCC unroll 4
                    for (int v = g * EACH; v < (g + 1) * EACH; v++)
                        digits[d] =
                            S::template dot_block<Form::FULL>(digits[d], part.w[v], x[r].digits[d] + STRIP * v + at);
                }
                all = S::fma(total_of<D>(digits), part.scale[g], all);
            }
            sum[r] = S::fma(all, S::all(x[r].scale), sum[r]);
        }
    }
    template <class Form, int R, int D>
    static WF_INLINE void unit(const uint8_t *b, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
#pragma GCC unroll 4
        for (int at = 0; at < STRIP; at += 4 * L) add<Form, R, D>(part_of<Form>(b, at), at, x, sum);
    }

    template <class Form>
    static WF_INLINE void ask_for(const Feed &feed, const uint8_t *b, int64_t ahead) {
        for (int line = 0; line < unit_bytes<Form>(); line += 64) ask(feed, uintptr_t(b + line) + uintptr_t(ahead));
    }

    // Units u .. stop of a row of the weight.
    template <class Form, int R, int D>
    static WF_INLINE void part_of_row(const Matrix &m, const Feed &feed, int64_t n, int64_t u, int64_t stop,
                                      int64_t ahead, const BlockX<Form::FORM, D> *x, F (&sum)[R]) {
        constexpr int BYTES = unit_bytes<Form>();
        const int64_t whole = m.columns / UNIT, row_bytes = m.row_bytes();
        const uint8_t *row = m.codes + n * row_bytes;
        const int64_t end = stop < whole ? stop : whole;
        x += u * R;
        if constexpr (R == 1 && 4 * L == STRIP) {  // a unit comes apart while the one before it is multiplied
            if (u < end) {
                auto now = part_of<Form>(row + u * BYTES, 0);
                for (; u + 1 < end; u++, x++) {
                    ask_for<Form>(feed, row + u * BYTES, ahead);
                    const auto next = part_of<Form>(row + (u + 1) * BYTES, 0);
                    add<Form, R, D>(now, 0, x, sum);
                    now = next;
                }
                ask_for<Form>(feed, row + u * BYTES, ahead);
                add<Form, R, D>(now, 0, x++, sum), u++;
            }
        }
        for (; u < end; u++, x += R) {
            ask_for<Form>(feed, row + u * BYTES, ahead);
            unit<Form, R, D>(row + u * BYTES, x, sum);
        }
        if (u == stop) return;
        uint8_t padded[BYTES] = {};  // the last columns, beside zeros
        std::memcpy(padded, row + u * BYTES, size_t(row_bytes - u * BYTES));
        unit<Form, R, D>(padded, x, sum);
    }

    // Eight rows of the weight take turns over columns whose x stays in the nearest cache.
    template <class Form, int R, int D>
    static void rows_of(const Matrix &m, const Feed &feed, const BlockX<Form::FORM, D> *x, int64_t first, int64_t end,
                        float *y, int64_t stride) {
        constexpr int ROWS = 8, TILE = 24 / (R * D) > 1 ? 24 / (R * D) : 1;
        const int64_t units = units_of(m), ahead = R > 1 && units > TILE ? ROWS * m.row_bytes() : feed.ahead;
        for (; first < end; first += ROWS) {
            const int rows = int(end - first < ROWS ? end - first : ROWS);
            F sums[ROWS][R] = {};
            const int64_t tile = R > 1 ? TILE : units;
            for (int64_t u = 0; u < units; u += tile)
                for (int i = 0; i < rows; i++) {
                    F sum[R];
                    for (int r = 0; r < R; r++) sum[r] = sums[i][r];
                    part_of_row<Form, R, D>(m, feed, first + i, u, u + tile < units ? u + tile : units, ahead, x, sum);
                    for (int r = 0; r < R; r++) sums[i][r] = sum[r];
                }
            for (int i = 0; i < rows; i++)
                for (int r = 0; r < R; r++) y[r * stride + first + i] = S::sum(sums[i][r]);
        }
    }

    template <class Form, int D>
    static void rows_for(const Matrix &m, const Feed &feed, const uint8_t *arranged, int x_rows, int64_t first,
                         int64_t end, float *y, int64_t stride) {
        const auto *x = reinterpret_cast<const BlockX<Form::FORM, D> *>(arranged);
        switch (x_rows) {
            case 1: return rows_of<Form, 1, D>(m, feed, x, first, end, y, stride);
            case 2: return rows_of<Form, 2, D>(m, feed, x, first, end, y, stride);
            case 3: return rows_of<Form, 3, D>(m, feed, x, first, end, y, stride);
            case 4: return rows_of<Form, 4, D>(m, feed, x, first, end, y, stride);
        }
        if constexpr (S::TOGETHER > 4) switch (x_rows) {
                case 5: return rows_of<Form, 5, D>(m, feed, x, first, end, y, stride);
                case 6: return rows_of<Form, 6, D>(m, feed, x, first, end, y, stride);
                case 7: return rows_of<Form, 7, D>(m, feed, x, first, end, y, stride);
                case 8: return rows_of<Form, 8, D>(m, feed, x, first, end, y, stride);
            }
        __builtin_trap();  // more rows than `together`: nothing would be written
    }

    // What is done with a form.
    struct Arranged {
        const Matrix &m;
        int64_t x_rows, bytes;
        template <class Form>
        WF_INLINE void run() {
            bytes = block_x_bytes<Form::FORM>(m, x_rows);
        }
    };
    struct Arrange {
        const Matrix &m;
        const uint16_t *x;
        int64_t x_rows;
        bool int8;
        void *arranged;
        template <class Form>
        WF_INLINE void run() {
            arrange_blocks<Form::FORM, S::OFFSET>(m, x, x_rows, int8, arranged);
        }
    };
    struct Rows {
        const Matrix &m;
        const Feed &feed;
        const void *arranged;
        int x_rows;
        int64_t first, end;
        float *y;
        int64_t stride;
        template <class Form>
        WF_INLINE void run() {
            const auto *header = static_cast<const BlockHeader *>(arranged);
            const auto *x = static_cast<const uint8_t *>(arranged) + sizeof *header;
            switch (header->digits) {
                case 1: return rows_for<Form, 1>(m, feed, x, x_rows, first, end, y, stride);
                case 2: return rows_for<Form, 2>(m, feed, x, x_rows, first, end, y, stride);
                default: return rows_for<Form, 3>(m, feed, x, x_rows, first, end, y, stride);
            }
        }
    };
    static int64_t arranged_bytes(const Matrix &m, int64_t x_rows) {
        if (m.form == WF_F16) return generic_blocks.arranged_bytes(m, x_rows);
        Arranged act = {m, x_rows, 0};
        with_form<S>(m.form, act);
        return act.bytes;
    }
    static void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, bool int8, void *arranged) {
        if (m.form == WF_F16) return generic_blocks.arrange(m, x, x_rows, int8, arranged);
        Arrange act = {m, x, x_rows, int8, arranged};
        with_form<S>(m.form, act);
    }
    static void rows(const Matrix &m, const Feed &feed, const void *arranged, int x_rows, int64_t first, int64_t end,
                     float *y, int64_t stride) {
        if (m.form == WF_F16)
            return HalfRows<S>::rows(m, feed, static_cast<const float *>(arranged), x_rows, first, end, y, stride);
        Rows act = {m, feed, arranged, x_rows, first, end, y, stride};
        with_form<S>(m.form, act);
    }
};

template <class S>
constexpr BlockKernels block_kernels(bool (*supported)(), const BlockKernels *otherwise, const ManyRows &many) {
    using Rows = BlockRows<S>;
    return {supported, otherwise, S::TOGETHER, Rows::arranged_bytes, Rows::arrange, Rows::rows, many};
}

}  // namespace wf
