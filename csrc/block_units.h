// Units of 256 columns of a row of blocks, apart: codes as signed bytes in the columns' order, and scales and minima in float32, whose
// values are to the bit those of ggml's dequantize_row_*. For tiles of many rows (gemm.h) and for decoding.
#pragma once

#include "block_forms.h"

namespace wf {

template <class S>
struct BlockUnits {
    using F = typename S::F;
    using B = typename S::B;
    using Forms = BlockForms<S>;
    static constexpr int L = S::LANES;

    // Columns first .. first + columns of a row; the last unit may end early. Not for WF_F16.
    static void take_apart(const Matrix &m, int64_t row, int64_t first, int64_t columns, BlockUnit *units) {
        TakeApart act = {m, row, first, columns, units};
        with_form<S>(m.form, act);
    }

  private:
    struct TakeApart {
        const Matrix &m;
        int64_t row, first, columns;
        BlockUnit *units;
        template <class Form>
        WF_INLINE void run() {
            constexpr BlockSize SIZE = block_size(Form::FORM);
            constexpr int64_t BYTES = UNIT / SIZE.values * SIZE.bytes;
            const uint8_t *from = m.codes + row * m.row_bytes() + first / SIZE.values * SIZE.bytes;
            for (; columns >= UNIT; columns -= UNIT, from += BYTES) unit<Form>(from, *units++);
            if constexpr (SIZE.values < UNIT) {
                if (columns == 0) return;
                uint8_t padded[BYTES] = {};
                std::memcpy(padded, from, size_t(columns / SIZE.values * SIZE.bytes));
                unit<Form>(padded, *units);
            }
        }
    };

    // Which scale each sixteen columns have.
    template <int FORM>
    struct Index {
        uint32_t of[16];
        constexpr Index() : of() {
            for (int i = 0; i < 16; i++) of[i] = uint32_t(16 * i / scale_columns(FORM));
        }
    };

    template <class Form>
    static WF_INLINE void unit(const uint8_t *b, BlockUnit &to) {
        constexpr int FORM = Form::FORM;
        alignas(64) static constexpr Index<FORM> index;
#pragma GCC unroll 4
        for (int at = 0; at < STRIP; at += 4 * L) {
            B w[STRIPS];
            Form::codes(b, at, w);
#pragma GCC unroll 4
            for (int v = 0; v < STRIPS; v++) w[v] = w[v] - uint8_t(codes_above<S>(FORM));
            if constexpr (FORM == WF_IQ2_XXS || FORM == WF_IQ2_XS) S::zip_four(w, to.codes + 4 * at);
            else if constexpr (FORM == WF_IQ3_XXS) {
                S::zip_two(w[0], w[1], to.codes + 2 * at);
                S::zip_two(w[2], w[3], to.codes + UNIT / 2 + 2 * at);
            } else runs<FORM>(w, at, to.codes);
        }
        if constexpr (block_size(FORM).values == UNIT) {
            const Head head = Form::head(b);
            spread(S::floats_of(head.scales, head.d), index.of, to.scales);
            if (has_minima(FORM)) return spread(S::floats_of(head.minima, head.least), index.of, to.minima);
        } else {
            spread(Form::scales(b), index.of, to.scales);
        }
        std::memset(to.minima, 0, sizeof to.minima);
    }

    template <int FORM>
    static WF_INLINE void runs(const B (&w)[STRIPS], int at, int8_t *to) {
        constexpr int FULL = FORM == WF_Q8_0 || FORM == WF_Q6_K ? 64 : FORM == WF_IQ4_XS || FORM == WF_MXFP4 ? 16 : 32;
        constexpr int RUN = FULL < 4 * L ? FULL : 4 * L;
#pragma GCC unroll 4
        for (int v = 0; v < STRIPS; v++) {
            uint8_t bytes[4 * L];
            S::write(bytes, w[v]);
#pragma GCC unroll 4
            for (int i = 0; i < 4 * L; i += RUN) std::memcpy(to + block_column(FORM, v, at + i), bytes + i, RUN);
        }
    }

    template <class Floats>
    static WF_INLINE void spread(const Floats &floats, const uint32_t *index, float *to) {
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += L) S::store(to + i, S::pick(floats, index + i));
    }
};

}  // namespace wf
