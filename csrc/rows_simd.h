// Products in float32 over a Vector<N>: what the instruction sets without a bfloat16 product have in common.
//
//   FP4    4 N bytes hold 8 N columns, which S::e2m1 makes eight vectors of; x is laid out to match. Lane l of each
//          belongs to the scale l / 4. Where pairs of 16-bit integers are faster: rows_fixed.h
//   FP8    S::e4m3 makes float16 of 2 N codes, which is 2^-8 of their value, subnormal ones included, and widens it;
//          a product whose row holds a NaN becomes one at the end
//   bfloat16, float32   widened, or as they are
//
// The columns under one vector of scales are summed, then one multiply-add brings the scales in. The steps of a row of
// x are the same whatever other rows there are.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "rows_fixed.h"
#include "simd.h"

namespace wf {

// The two bytes of each e2m1 code in bfloat16.
constexpr uint8_t E2M1_LOW[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0,
                                  0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0};
constexpr uint8_t E2M1_HIGH[16] = {0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                                   0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0};

// S::e2m1 where bytes are looked up and zipped 16 at a time: low nibbles' bytes, then high ones', beside each other.
template <class S>
WF_INLINE void e2m1_of_bytes(const uint8_t *codes, typename S::F (&w)[8]) {
    using B = typename S::B;
    using U = typename S::U;
    const B bytes = S::template read<B>(codes), nibbles[2] = {bytes & 15, bytes >> 4};
    const U upper = S::all_pairs(0xFFFF0000);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const B low = S::look_up(E2M1_LOW, nibbles[h]), high = S::look_up(E2M1_HIGH, nibbles[h]);
        const U first = (U)S::zip_first(low, high), last = (U)S::zip_last(low, high);
        w[4 * h] = S::bits(first << 16), w[4 * h + 1] = S::bits(first & upper);
        w[4 * h + 2] = S::bits(last << 16), w[4 * h + 3] = S::bits(last & upper);
    }
}

// The column, among 8 N, of lane l of vector j.
constexpr int e2m1_column_of_bytes(int j, int l) {
    const int byte = l / 4 * 16 + j / 2 % 2 * 8 + l % 4 * 2 + j % 2;
    return 2 * byte + j / 4;
}

template <class S>
struct SimdRows {
    using F = typename S::F;
    static constexpr int L = S::LANES;

    // X_CHUNK of X are 128 columns of a row of x.
    struct FloatX {
        using X = float;
        static constexpr int X_CHUNK = CHUNK;
    };
    using Fixed = FixedRows<S>;
    struct FixedFP4 {
        using X = typename Fixed::Block;
        static constexpr int X_CHUNK = Fixed::PER_CHUNK, BYTES = 64, SCALES = 4;  // of a chunk
        WF_INLINE bool nan() const { return false; }
    };
    // A form loads COLUMNS columns as VECTORS vectors; SPAN columns share a vector of scales.
    struct FP4 : FloatX {
        static constexpr int BYTES = 64, SCALES = 4;  // of a chunk
        static constexpr int COLUMNS = 8 * L, VECTORS = 8, SPAN = COLUMNS;
        WF_INLINE void load(const uint8_t *codes, F (&w)[8]) { S::e2m1(codes, w); }
        static WF_INLINE F add(F sum, F part, const float *values, const uint8_t *scales) {
            return S::fma(part, S::fours(values, scales), sum);
        }
        WF_INLINE bool nan() const { return false; }
    };
    struct FP8 : FloatX {
        static constexpr int BYTES = 128, SCALES = 1;
        static constexpr int COLUMNS = 4 * L, VECTORS = 4, SPAN = CHUNK;
        typename S::B largest = {};
        WF_INLINE void load(const uint8_t *codes, F (&w)[4]) {
            const typename S::B read = S::template read<typename S::B>(codes), magnitude = read + read;
            largest = magnitude > largest ? magnitude : largest;
            S::e4m3(codes, w);
            S::e4m3(codes + 2 * L, w + 2);
        }
        static WF_INLINE F add(F sum, F part, const float *values, const uint8_t *scales) {
            return S::fma(part * 256.0f, S::all(values[*scales]), sum);
        }
        WF_INLINE bool nan() const {
            bool seen = false;
            for (int i = 0; i < 4 * L; i++) seen |= largest[i] == 0xFE;
            return seen;
        }
    };
    struct BF16 : FloatX {
        static constexpr int BYTES = 256, SCALES = 0;
        static constexpr int COLUMNS = 2 * L, VECTORS = 2, SPAN = CHUNK;
        WF_INLINE void load(const uint8_t *codes, F (&w)[2]) {
            w[0] = S::widen(reinterpret_cast<const uint16_t *>(codes));
            w[1] = S::widen(reinterpret_cast<const uint16_t *>(codes) + L);
        }
        static WF_INLINE F add(F sum, F part, const float *, const uint8_t *) { return sum + part; }
        WF_INLINE bool nan() const { return false; }
    };
    struct FP32 : BF16 {
        static constexpr int BYTES = 512;
        WF_INLINE void load(const uint8_t *codes, F (&w)[2]) {
            w[0] = S::template read<F>(codes);
            w[1] = S::template read<F>(codes + 4 * L);
        }
    };

    // Every e8m0 byte as a float. Made at the first use: nothing of this may run before the processor has been asked.
    static const float *scale_values() {
        static const struct Values {
            float of[256];
            Values() {
                for (int i = 0; i < 256; i++) of[i] = e8m0_to_float(uint8_t(i));
            }
        } values;
        return values.of;
    }

    template <int R>
    static WF_INLINE void chunk(FixedFP4 &, const uint8_t *codes, const float *values, const uint8_t *scales,
                                const typename Fixed::Block *x, F (&sum)[R]) {
        for (int k = 0; k < CHUNK; k += Fixed::COLUMNS)
            Fixed::template block<R>(codes + k / 2, S::fours(values, scales + k / 32), x++, sum);
    }

    template <int R, class Form>
    static WF_INLINE void chunk(Form &form, const uint8_t *codes, const float *values, const uint8_t *scales,
                                const float *x, F (&sum)[R]) {
        constexpr int LOADS = Form::SPAN / Form::COLUMNS, V = Form::VECTORS;
        for (int k = 0; k < CHUNK; k += Form::SPAN) {
            F part[R][2];
#pragma GCC unroll 8
            for (int i = 0; i < LOADS; i++) {
                const int first = k + i * Form::COLUMNS;
                F w[V];
                form.load(codes + first * Form::BYTES / CHUNK, w);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    const float *mine = x + r * CHUNK + first;
#pragma GCC unroll 8
                    for (int j = 0; j < V; j++) {
                        F &to = part[r][j % 2];
                        to = i == 0 && j < 2 ? w[j] * S::load(mine + j * L) : S::fma(w[j], S::load(mine + j * L), to);
                    }
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                sum[r] = Form::add(sum[r], part[r][0] + part[r][1], values, scales + k * Form::SCALES / CHUNK);
        }
    }

    // A form of an instruction set that multiplies pairs of bfloat16.
    template <int R, class Form>
    static WF_INLINE void chunk(Form &form, const uint8_t *codes, const float *values, const uint8_t *scales,
                                const uint16_t *x, F (&sum)[R]) {
        form.template chunk<R>(codes, values, scales, x, sum);
    }

    // Chunks c .. stop of row n of the weight.
    template <class Form, int R>
    static WF_INLINE void part_of_row(const Matrix &m, const Feed &feed, int64_t n, int64_t c, int64_t stop,
                                      int64_t ahead, const typename Form::X *x, Form &form, F (&sum)[R]) {
        const int64_t whole = m.columns / CHUNK, row_bytes = m.row_bytes();
        const uint8_t *codes = m.codes + n * row_bytes, *scales = Form::SCALES ? m.scales_of(n) : nullptr;
        const float *values = scale_values();
        x += c * R * Form::X_CHUNK;
        for (const int64_t end = stop < whole ? stop : whole; c < end; c++) {
            for (int line = 0; line < Form::BYTES; line += 64)
                ask(feed, uintptr_t(codes + c * Form::BYTES + line) + uintptr_t(ahead));
            chunk<R>(form, codes + c * Form::BYTES, values, scales + c * Form::SCALES, x, sum);
            x += R * Form::X_CHUNK;
        }
        if (c == stop) return;
        alignas(64) uint8_t padded[Form::BYTES] = {};  // the last columns, beside zeros
        uint8_t padded_scales[4] = {127, 127, 127, 127};
        std::memcpy(padded, codes + c * Form::BYTES, size_t(row_bytes - c * Form::BYTES));
        if (Form::SCALES)
            std::memcpy(padded_scales, scales + c * Form::SCALES, size_t(m.row_scales() - c * Form::SCALES));
        chunk<R>(form, padded, values, padded_scales, x, sum);
    }

    // Eight rows of the weight take turns over columns whose x stays in the nearest cache.
    template <class Form, int R>
    static void rows_of(const Matrix &m, const Feed &feed, const typename Form::X *x, int64_t first, int64_t end,
                        float *y, int64_t stride) {
        constexpr int ROWS = 8, TILE = 32 / R;  // chunks
        const int64_t chunks = m.chunks(), ahead = chunks > TILE ? m.row_bytes() : feed.ahead;
        for (; first < end; first += ROWS) {
            const int rows = int(end - first < ROWS ? end - first : ROWS);
            Form forms[ROWS];
            F sums[ROWS][R] = {};
            for (int64_t tile = 0; tile < chunks; tile += TILE)
                for (int i = 0; i < rows; i++) {
                    Form form = forms[i];
                    F sum[R];
                    for (int r = 0; r < R; r++) sum[r] = sums[i][r];
                    const int64_t stop = tile + TILE < chunks ? tile + TILE : chunks;
                    part_of_row<Form, R>(m, feed, first + i, tile, stop, ahead, x, form, sum);
                    for (int r = 0; r < R; r++) sums[i][r] = sum[r];
                    forms[i] = form;
                }
            for (int i = 0; i < rows; i++)
                for (int r = 0; r < R; r++) y[r * stride + first + i] = forms[i].nan() ? NAN : S::sum(sums[i][r]);
        }
    }

    template <class Form>
    static void rows_for(const Matrix &m, const Feed &feed, const void *arranged, int x_rows, int64_t first,
                         int64_t end, float *y, int64_t stride) {
        const auto *x = static_cast<const typename Form::X *>(arranged);
        switch (x_rows) {
            case 1: return rows_of<Form, 1>(m, feed, x, first, end, y, stride);
            case 2: return rows_of<Form, 2>(m, feed, x, first, end, y, stride);
            case 3: return rows_of<Form, 3>(m, feed, x, first, end, y, stride);
            case 4: return rows_of<Form, 4>(m, feed, x, first, end, y, stride);
        }
        if constexpr (S::TOGETHER > 4) switch (x_rows) {
                case 5: return rows_of<Form, 5>(m, feed, x, first, end, y, stride);
                case 6: return rows_of<Form, 6>(m, feed, x, first, end, y, stride);
                case 7: return rows_of<Form, 7>(m, feed, x, first, end, y, stride);
                case 8: return rows_of<Form, 8>(m, feed, x, first, end, y, stride);
            }
        __builtin_trap();  // more rows than `together`: nothing would be written
    }

    static void rows(const Matrix &m, const Feed &feed, const void *arranged, int x_rows, int64_t first, int64_t end,
                     float *y, int64_t stride) {
        using Four = std::conditional_t<S::FIXED_FP4, FixedFP4, FP4>;
        switch (m.form) {
            case WF_FP4: return rows_for<Four>(m, feed, arranged, x_rows, first, end, y, stride);
            case WF_FP8: return rows_for<FP8>(m, feed, arranged, x_rows, first, end, y, stride);
            case WF_BF16: return rows_for<BF16>(m, feed, arranged, x_rows, first, end, y, stride);
            default: return rows_for<FP32>(m, feed, arranged, x_rows, first, end, y, stride);
        }
    }

    static int64_t arranged_bytes(const Matrix &m, int64_t x_rows) {
        const bool fixed = S::FIXED_FP4 && m.form == WF_FP4;
        const int64_t one = fixed ? FixedFP4::X_CHUNK * int64_t(sizeof(typename Fixed::Block)) : CHUNK * 4;
        return x_rows * m.chunks() * one;
    }

    static void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, void *arranged) {
        if constexpr (S::FIXED_FP4)
            if (m.form == WF_FP4) return Fixed::arrange(m, x, x_rows, static_cast<typename Fixed::Block *>(arranged));
        generic_kernels.arrange(m, x, x_rows, arranged);
        if (m.form != WF_FP4) return;
        float *out = static_cast<float *>(arranged), plain[FP4::COLUMNS];
        for (int64_t at = 0; at < x_rows * m.chunks() * CHUNK; at += FP4::COLUMNS) {
            std::memcpy(plain, out + at, sizeof plain);
            for (int j = 0; j < 8; j++)
                for (int l = 0; l < L; l++) out[at + j * L + l] = plain[S::e2m1_column(j, l)];
        }
    }

    static void decode(const Matrix &m, int64_t first, int64_t end, uint16_t *out) {
        if (m.form > WF_FP8 || m.columns % 32) return generic_kernels.decode(m, first, end, out);
        for (int64_t n = first; n < end; n++) {
            const uint8_t *codes = m.codes + n * m.row_bytes(), *scales = m.scales_of(n);
            uint16_t *row = out + (n - first) * m.columns;
            for (int64_t k = 0; k < m.columns; k += 32) {
                if (m.form == WF_FP4) S::fp4(codes + k / 2, scales[k / 32], row + k);
                else S::fp8(codes + k, 32, scales[k / 128], row + k);
            }
        }
    }
};

template <class S>
constexpr Kernels simd_kernels(const char *name, bool (*supported)(), const AttentionKernels *attention,
                               const TrainingKernels *training, const Int8Kernels *int8, const BlockKernels *blocks) {
    using Rows = SimdRows<S>;
    return {name,     supported, S::TOGETHER, Rows::arrange, Rows::arranged_bytes, Rows::rows, Rows::decode, attention,
            training, nullptr,   int8,        blocks};
}

}  // namespace wf
