// The kernels for AVX512-BF16: 64 bytes of codes become bfloat16 in registers and meet x in dpbf16.
//
//   FP4    a word holds the codes 4j .. 4j + 3: shifted by 0, 4, 8, 12 bits it looks up one of them, 32 at a time, in a
//          table of 32 words (the fifth index bit is the next code's and changes nothing); x is laid out to match
//   FP8    64 codes look up the low and the high byte of their magnitude in two pairs of registers each; the sign joins
//          the high bytes, and the two are zipped, 8 codes of 16 at a time: x is laid out to match
//
// 128 columns share a step: four products for each row of x, then one multiply-add by the scales. The steps of a row of
// x are the same whatever other rows there are.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "attention.h"
#include "avx512.h"
#include "blocks.h"
#include "int8.h"
#include "rows_simd.h"
#include "training.h"

namespace wf {
namespace {

using Plain = SimdRows<Avx512>;  // products with float32 weights, and decoding

alignas(64) constexpr uint8_t NUMBERS[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                             16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                             32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                             48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

inline __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

// Sixteen scale bytes as floats. e == 0 and e == 255 have the highest mantissa bit: (e + 1) & 254 is 0 for them alone.
inline __m512 to_floats(__m128i scales) {
    const __m512i bytes = _mm512_cvtepu8_epi32(scales);
    const __m512i next = _mm512_add_epi32(bytes, _mm512_set1_epi32(1));
    const __mmask16 edge = _mm512_testn_epi32_mask(next, _mm512_set1_epi32(254));
    const __m512i bits = _mm512_slli_epi32(bytes, 23);
    return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, edge, bits, _mm512_set1_epi32(1 << 22)));
}

// The codes of a row, 64 bytes at a time, wherever they begin. Each cache line is read by one load, for one instruction:
// a load for several of them, folded into each, or one across two lines, is repeated while its line is on the way.
// Bytes outside the row are not read.
struct Lines {
    const uint8_t *at;
    uint64_t outside;  // bytes of the first line that lie before the row, as many as of its last line lie in it
    __m512i places, line;
    WF_INLINE void begin(const uint8_t *row) {
        const int skipped = int(reinterpret_cast<uintptr_t>(row) % 64);
        at = row - skipped;
        outside = (uint64_t(1) << skipped) - 1;
        places = _mm512_add_epi8(_mm512_load_si512(NUMBERS), _mm512_set1_epi8(char(skipped)));
        line = _mm512_maskz_loadu_epi8(~outside, at);
    }
    WF_INLINE __m512i next(bool last) {
        at += 64;
        const __m512i after = last ? _mm512_maskz_loadu_epi8(outside, at) : _mm512_load_si512(at);
        const __m512i codes = _mm512_permutex2var_epi8(line, places, after);
        line = after;
        return codes;
    }
};

// What is asked for while other bytes are read.
struct Hints {
    const Feed &feed;
    uintptr_t at;
    WF_INLINE void next(int bytes) {
#pragma GCC unroll 4
        for (int line = 0; line < bytes; line += 64) ask(feed, at + line);
        at += bytes;
    }
};

struct FP4 {
    static constexpr int BYTES = 64, SCALES = 4;
    static constexpr bool SCALED = true;
    __m512i table = _mm512_load_si512(tables().e2m1);
    // One of the three shifts is a product, which other units of the processor do.
    inline void load(Lines &codes, bool last, __m512i w[4]) const {
        const __m512i words = codes.next(last), shifted = _mm512_mulhi_epu16(words, _mm512_set1_epi16(1 << 4));
        w[0] = _mm512_permutexvar_epi16(words, table);
        w[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
        w[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table);
        w[3] = _mm512_permutexvar_epi16(shifted, table);
    }
    // The scales of four steps at a time; each goes to the four lanes whose sums it scales.
    static inline __m512 scales(const uint8_t *bytes, int steps) {
        if (steps == 4) return to_floats(_mm_loadu_si128((const __m128i *)bytes));
        int32_t four;
        std::memcpy(&four, bytes, 4);
        return to_floats(_mm_cvtsi32_si128(four));
    }
    static inline __m512 scale(__m512 scales, int step) {
        const __m512i lanes = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        return _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(4 * step)), scales);
    }
};

struct FP8 {
    static constexpr int BYTES = 128, SCALES = 1;
    static constexpr bool SCALED = true;
    __m512i low0, low1, high0, high1;
    FP8() {
        alignas(64) uint8_t low[128], high[128];
        for (int i = 0; i < 128; i++) low[i] = uint8_t(tables().e4m3[i]), high[i] = uint8_t(tables().e4m3[i] >> 8);
        low0 = _mm512_load_si512(low), low1 = _mm512_load_si512(low + 64);
        high0 = _mm512_load_si512(high), high1 = _mm512_load_si512(high + 64);
    }
    inline void load(Lines &codes, bool last, __m512i w[4]) const {
        const __m512i sign = _mm512_set1_epi8(-128);
        for (int i = 0; i < 2; i++) {
            const __m512i code = codes.next(last && i == 1);
            const __m512i low = _mm512_permutex2var_epi8(low0, code, low1);
            const __m512i magnitude = _mm512_permutex2var_epi8(high0, code, high1);
            const __m512i high = _mm512_ternarylogic_epi32(magnitude, code, sign, 0xF8);  // magnitude | (code & sign)
            w[2 * i] = _mm512_unpacklo_epi8(low, high), w[2 * i + 1] = _mm512_unpackhi_epi8(low, high);
        }
    }
    static inline __m512 scales(const uint8_t *bytes, int steps) {
        int32_t four = *bytes;
        if (steps == 4) std::memcpy(&four, bytes, 4);
        return to_floats(_mm_cvtsi32_si128(four));
    }
    static inline __m512 scale(__m512 scales, int step) {
        return _mm512_permutexvar_ps(_mm512_set1_epi32(step), scales);
    }
};

struct BF16 {
    static constexpr int BYTES = 256, SCALES = 0;
    static constexpr bool SCALED = false;
    inline void load(Lines &codes, bool last, __m512i w[4]) const {
        for (int j = 0; j < 4; j++) w[j] = codes.next(last && j == 3);
    }
    static inline __m512 scales(const uint8_t *, int) { return _mm512_setzero_ps(); }
    static inline __m512 scale(__m512 scales, int) { return scales; }
};

// Sums of even chunks and of odd ones.
template <int R>
struct Sums {
    __m512 even[R], odd[R];
    WF_INLINE void clear() {
        for (int r = 0; r < R; r++) even[r] = odd[r] = _mm512_setzero_ps();
    }
};

// A chunk of P rows of the weight, each value of x loaded once for all of them.
template <class Form, int R, int P>
WF_INLINE void step(const Form &form, Lines *codes, bool last, const __m512 *scale, const uint16_t *x, bool odd,
                    Sums<R> *sums) {
    __m512i w[P][4];
    for (int p = 0; p < P; p++) form.load(codes[p], last, w[p]);
    constexpr int TURN = R == 1 || R > 4 ? 1 : 2;  // rows of x whose products are written side by side
#pragma GCC unroll 8
    for (int r = 0; r < R; r += TURN) {
        __m512 a[TURN][P];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int i = 0; i < TURN; i++) {
                if (r + i >= R) break;
                const __m512i right = _mm512_load_si512(x + (r + i) * CHUNK + 32 * j);
                for (int p = 0; p < P; p++) a[i][p] = dot(j ? a[i][p] : _mm512_setzero_ps(), w[p][j], right);
            }
#pragma GCC unroll 4
        for (int i = 0; i < TURN; i++)
            for (int p = 0; p < P; p++) {
                if (r + i >= R) break;
                __m512 &sum = odd ? sums[p].odd[r + i] : sums[p].even[r + i];
                sum = Form::SCALED ? _mm512_fmadd_ps(a[i][p], scale[p], sum) : _mm512_add_ps(a[i][p], sum);
            }
    }
}

// Chunks c .. stop of rows n .. n + P of the weight; c is a multiple of 4.
template <class Form, int R, int P>
WF_INLINE void part_of_rows(const Form &form, const Matrix &m, int64_t n, int64_t c, int64_t stop, const uint16_t *x,
                            Hints &hints, Sums<R> *sums) {
    const int64_t whole = std::min(stop, m.columns / CHUNK), row_bytes = m.row_bytes();
    const uint8_t *row[P], *scales[P];
    Lines codes[P];
    __m512 four[P], scale[P];
    for (int p = 0; p < P; p++) {
        row[p] = m.codes + (n + p) * row_bytes, scales[p] = m.scales_of(n + p);
        if (c < whole) codes[p].begin(row[p] + c * Form::BYTES);
    }
    for (; c + 4 <= whole; c += 4) {
        for (int p = 0; p < P; p++) four[p] = Form::scales(scales[p] + c * Form::SCALES, 4);
        const bool last = c + 4 == whole;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            for (int p = 0; p < P; p++) scale[p] = Form::scale(four[p], i);
            hints.next(P * Form::BYTES);
            step<Form, R, P>(form, codes, last && i == 3, scale, x + (c + i) * R * CHUNK, i % 2, sums);
        }
    }
    for (; c < whole; c++) {
        for (int p = 0; p < P; p++) scale[p] = Form::scale(Form::scales(scales[p] + c * Form::SCALES, 1), 0);
        step<Form, R, P>(form, codes, c + 1 == whole, scale, x + c * R * CHUNK, false, sums);
    }
    if (c == stop) return;
    alignas(64) uint8_t padded[P][256] = {};  // the last columns, beside zeros
    for (int p = 0; p < P; p++) {
        uint8_t padded_scales[4] = {127, 127, 127, 127};
        std::memcpy(padded[p], row[p] + c * Form::BYTES, size_t(row_bytes - c * Form::BYTES));
        if (Form::SCALED)
            std::memcpy(padded_scales, scales[p] + c * Form::SCALES, size_t(m.row_scales() - c * Form::SCALES));
        scale[p] = Form::scale(Form::scales(padded_scales, 1), 0);
        codes[p].begin(padded[p]);
    }
    step<Form, R, P>(form, codes, true, scale, x + c * R * CHUNK, true, sums);
}

template <int R>
void finish(const Sums<R> &sums, float *y, int64_t stride) {
    for (int r = 0; r < R; r++) y[r * stride] = _mm512_reduce_add_ps(_mm512_add_ps(sums.even[r], sums.odd[r]));
}

// One row of x: the rows of the weight one after the other; two at a time where decoding them takes most of the time.
template <class Form>
void row_of(const Matrix &m, const Feed &feed, const uint16_t *x, int64_t first, int64_t end, float *y) {
    const Form form;
    Hints hints = {feed, uintptr_t(m.codes + first * m.row_bytes()) + uintptr_t(feed.ahead)};
    const int64_t later = feed.ahead / m.row_bytes() + 1;
    const auto step = [&](auto rows, int64_t n) __attribute__((always_inline)) {
        constexpr int P = decltype(rows)::value;
        if (Form::SCALES > 1) Hints{feed, uintptr_t(m.scales_of(n + later))}.next(int(P * m.row_scales()));
        Sums<1> sums[P];
        for (int p = 0; p < P; p++) sums[p].clear();
        part_of_rows<Form, 1, P>(form, m, n, 0, m.chunks(), x, hints, sums);
        for (int p = 0; p < P; p++) finish<1>(sums[p], y + n + p, 0);
    };
    int64_t n = first;
    for (; Form::SCALED && n + 2 <= end; n += 2) step(std::integral_constant<int, 2>(), n);
    for (; n < end; n++) step(std::integral_constant<int, 1>(), n);
}

// Several: rows of the weight take turns, two at a time, over columns whose x stays in the nearest cache.
template <class Form, int R>
void rows_of(const Matrix &m, const Feed &feed, const uint16_t *x, int64_t first, int64_t end, float *y,
             int64_t stride) {
    constexpr int ROWS = R > 4 ? 8 : 16, SPAN = 64 / R / 4 * 4;  // chunks: 16 KB of x
    const Form form;
    const int64_t chunks = m.chunks();
    for (; first < end; first += ROWS) {
        const int rows = int(std::min<int64_t>(end - first, ROWS));
        Hints hints = {feed, uintptr_t(m.codes + (first + ROWS) * m.row_bytes())};  // the rows of the next turn
        if (Form::SCALES > 1) Hints{feed, uintptr_t(m.scales_of(first + ROWS))}.next(int(ROWS * m.row_scales()));
        Sums<R> sums[ROWS];
        for (int i = 0; i < rows; i++) sums[i].clear();
        for (int64_t c = 0; c < chunks; c += SPAN) {
            const int64_t stop = std::min<int64_t>(c + SPAN, chunks);
            int i = 0;
            for (; i + 2 <= rows; i += 2) part_of_rows<Form, R, 2>(form, m, first + i, c, stop, x, hints, sums + i);
            if (i < rows) part_of_rows<Form, R, 1>(form, m, first + i, c, stop, x, hints, sums + i);
        }
        for (int i = 0; i < rows; i++) finish<R>(sums[i], y + first + i, stride);
    }
}

template <class Form>
void rows_for(const Matrix &m, const Feed &feed, const uint16_t *x, int x_rows, int64_t first, int64_t end, float *y,
              int64_t stride) {
    switch (x_rows) {
        case 1: return row_of<Form>(m, feed, x, first, end, y);
        case 2: return rows_of<Form, 2>(m, feed, x, first, end, y, stride);
        case 3: return rows_of<Form, 3>(m, feed, x, first, end, y, stride);
        case 4: return rows_of<Form, 4>(m, feed, x, first, end, y, stride);
        case 5: return rows_of<Form, 5>(m, feed, x, first, end, y, stride);
        case 6: return rows_of<Form, 6>(m, feed, x, first, end, y, stride);
        case 7: return rows_of<Form, 7>(m, feed, x, first, end, y, stride);
        default: return rows_of<Form, 8>(m, feed, x, first, end, y, stride);
    }
}

void rows(const Matrix &m, const Feed &feed, const void *arranged, int x_rows, int64_t first, int64_t end, float *y,
          int64_t stride) {
    const uint16_t *x = static_cast<const uint16_t *>(arranged);
    switch (m.form) {
        case WF_FP4: return rows_for<FP4>(m, feed, x, x_rows, first, end, y, stride);
        case WF_FP8: return rows_for<FP8>(m, feed, x, x_rows, first, end, y, stride);
        case WF_BF16: return rows_for<BF16>(m, feed, x, x_rows, first, end, y, stride);
        default:
            return Plain::rows_for<Plain::FP32>(m, feed, static_cast<const float *>(arranged), x_rows, first, end, y,
                                                stride);
    }
}

int64_t arranged_bytes(const Matrix &m, int64_t x_rows) {
    return m.form == WF_FP32 ? Plain::arranged_bytes(m, x_rows) : x_rows * m.chunks() * CHUNK * 2;
}

// The words of a chunk in the order in which a form's vectors hold their columns.
struct Order {
    alignas(64) uint16_t of[4][32];  // the word that comes to each place of vector i
    explicit Order(int form) {
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 32; j++)
                of[i][j] = uint16_t(form == WF_FP4   ? 4 * j + i
                                    : form == WF_FP8 ? i / 2 * 64 + j / 8 * 16 + i % 2 * 8 + j % 8
                                                     : 32 * i + j);
    }
    WF_INLINE void arrange(const __m512i (&in)[4], uint16_t *to) const {
        for (int i = 0; i < 4; i++) {
            const __m512i index = _mm512_load_si512(of[i]);  // a look-up ignores the bit that says which half
            const __m512i low = _mm512_permutex2var_epi16(in[0], index, in[1]);
            const __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
            const __m512i high = _mm512_permutex2var_epi16(in[2], index, in[3]);
            _mm512_store_si512(to + 32 * i, _mm512_mask_mov_epi16(low, upper, high));
        }
    }
};

void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, void *arranged) {
    if (m.form == WF_FP32) return Plain::arrange(m, x, x_rows, arranged);
    static const Order orders[] = {Order(WF_FP4), Order(WF_FP8), Order(WF_BF16)};
    const Order &order = orders[m.form == WF_FP4 ? 0 : m.form == WF_FP8 ? 1 : 2];
    uint16_t *to = static_cast<uint16_t *>(arranged);
    for (int64_t k = 0; k < m.columns; k += CHUNK)
        for (int64_t r = 0; r < x_rows; r++, to += CHUNK) {
            __m512i words[4];
            for (int i = 0; i < 4; i++) {
                const int64_t left = m.columns - k - 32 * i;
                const __mmask32 inside = left >= 32 ? ~__mmask32(0) : left <= 0 ? 0 : (__mmask32(1) << left) - 1;
                words[i] = _mm512_maskz_loadu_epi16(inside, x + r * m.columns + k + 32 * i);
            }
            order.arrange(words, to);
        }
}

}  // namespace

const Kernels avx512bf16_kernels = {"avx512bf16",    has_avx512bf16,        MAX_ROWS,
                                    arrange,         arranged_bytes,        rows,
                                    Plain::decode,   &avx512bf16_attention, &avx512bf16_training,
                                    &avx512_kernels, &avx512vnni_int8,      &avx512vnni_blocks};

}  // namespace wf
