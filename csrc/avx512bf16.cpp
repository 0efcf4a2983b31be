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

#include <cstring>

#include "attention.h"
#include "avx512.h"
#include "int8.h"
#include "rows_simd.h"
#include "training.h"

namespace wf {
namespace {

using Plain = SimdRows<Avx512>;  // products with float32 weights, and decoding

constexpr int AHEAD = 8192;  // bytes of hints before their use

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
    explicit Lines(const uint8_t *row) {
        const int skipped = int(reinterpret_cast<uintptr_t>(row) % 64);
        at = row - skipped;
        outside = (uint64_t(1) << skipped) - 1;
        places = _mm512_add_epi8(_mm512_load_si512(NUMBERS), _mm512_set1_epi8(char(skipped)));
        line = _mm512_maskz_loadu_epi8(~outside, at);
    }
    inline __m512i next(bool last) {
        at += 64;
        _mm_prefetch((const char *)(uintptr_t(at) + AHEAD), _MM_HINT_NTA);  // of a row after this one, or of nothing
        const __m512i after = last ? _mm512_maskz_loadu_epi8(outside, at) : _mm512_load_si512(at);
        const __m512i codes = _mm512_permutex2var_epi8(line, places, after);
        line = after;
        return codes;
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

template <class Form, int R>
WF_INLINE void step(const Form &form, Lines &codes, bool last, __m512 scale, const uint16_t *x, int64_t width,
                    __m512 (&sum)[R]) {
    __m512i w[4];
    form.load(codes, last, w);
    for (int r = 0; r < R; r++) {
        const uint16_t *mine = x + r * width;
        __m512 a = dot(_mm512_setzero_ps(), w[0], _mm512_load_si512(mine));
        for (int j = 1; j < 4; j++) a = dot(a, w[j], _mm512_load_si512(mine + 32 * j));
        sum[r] = Form::SCALED ? _mm512_fmadd_ps(a, scale, sum[r]) : _mm512_add_ps(a, sum[r]);
    }
}

template <class Form, int R>
void rows_of(const Matrix &m, const uint16_t *x, int64_t first, int64_t end, float *y, int64_t stride) {
    const Form form;
    const int64_t whole = m.columns / CHUNK, width = m.chunks() * CHUNK, row_bytes = m.row_bytes();
    alignas(64) uint8_t padded[256] = {};
    for (int64_t n = first; n < end; n++) {
        const uint8_t *row = m.codes + n * row_bytes, *scales = m.scales_of(n);
        Lines codes(whole ? row : padded);
        __m512 even[R], odd[R];
        for (int r = 0; r < R; r++) even[r] = odd[r] = _mm512_setzero_ps();
        int64_t c = 0;
        for (; c + 4 <= whole; c += 4) {
            const __m512 four = Form::scales(scales + c * Form::SCALES, 4);
            const bool last = c + 4 == whole;
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                step<Form, R>(form, codes, last && i == 3, Form::scale(four, i), x + (c + i) * CHUNK, width,
                              i % 2 ? odd : even);
        }
        for (; c < whole; c++) {
            const __m512 one = Form::scales(scales + c * Form::SCALES, 1);
            step<Form, R>(form, codes, c + 1 == whole, Form::scale(one, 0), x + c * CHUNK, width, even);
        }
        if (m.columns % CHUNK) {  // the last columns, beside zeros
            uint8_t padded_scales[4] = {127, 127, 127, 127};
            std::memcpy(padded, row + c * Form::BYTES, size_t(row_bytes - c * Form::BYTES));
            if (Form::SCALED)
                std::memcpy(padded_scales, scales + c * Form::SCALES, size_t(m.row_scales() - c * Form::SCALES));
            const __m512 one = Form::scales(padded_scales, 1);
            Lines rest(padded);
            step<Form, R>(form, rest, true, Form::scale(one, 0), x + c * CHUNK, width, odd);
        }
        for (int r = 0; r < R; r++) y[r * stride + n] = _mm512_reduce_add_ps(_mm512_add_ps(even[r], odd[r]));
    }
}

template <class Form>
void rows_for(const Matrix &m, const uint16_t *x, int x_rows, int64_t first, int64_t end, float *y, int64_t stride) {
    switch (x_rows) {
        case 1: return rows_of<Form, 1>(m, x, first, end, y, stride);
        case 2: return rows_of<Form, 2>(m, x, first, end, y, stride);
        case 3: return rows_of<Form, 3>(m, x, first, end, y, stride);
        default: return rows_of<Form, 4>(m, x, first, end, y, stride);
    }
}

void rows(const Matrix &m, const void *arranged, int x_rows, int64_t first, int64_t end, float *y, int64_t stride) {
    const uint16_t *x = static_cast<const uint16_t *>(arranged);
    switch (m.form) {
        case WF_FP4: return rows_for<FP4>(m, x, x_rows, first, end, y, stride);
        case WF_FP8: return rows_for<FP8>(m, x, x_rows, first, end, y, stride);
        case WF_BF16: return rows_for<BF16>(m, x, x_rows, first, end, y, stride);
        default:
            return Plain::rows_for<Plain::FP32>(m, static_cast<const float *>(arranged), x_rows, first, end, y, stride);
    }
}

int64_t arranged_bytes(const Matrix &m, int64_t x_rows) {
    return m.form == WF_FP32 ? Plain::arranged_bytes(m, x_rows) : x_rows * m.chunks() * CHUNK * 2;
}

void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, void *arranged) {
    if (m.form == WF_FP32) return Plain::arrange(m, x, x_rows, arranged);
    const int64_t width = m.chunks() * CHUNK;
    uint16_t *out = static_cast<uint16_t *>(arranged);
    std::memset(out, 0, size_t(2 * x_rows * width));
    for (int64_t r = 0; r < x_rows; r++) {
        const uint16_t *row = x + r * m.columns;
        if (m.form == WF_BF16) {
            std::memcpy(out + r * width, row, size_t(2 * m.columns));
            continue;
        }
        for (int64_t k = 0; k < m.columns; k += CHUNK) {
            uint16_t chunk[CHUNK] = {}, *to = out + r * width + k;
            std::memcpy(chunk, row + k, size_t(2 * (m.columns - k < CHUNK ? m.columns - k : CHUNK)));
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 32; j++)
                    to[32 * i + j] = chunk[m.form == WF_FP4 ? 4 * j + i : i / 2 * 64 + j / 8 * 16 + i % 2 * 8 + j % 8];
        }
    }
}

}  // namespace

const Kernels avx512bf16_kernels = {
    "avx512bf16",          has_avx512bf16,       arrange,         arranged_bytes, rows, Plain::decode,
    &avx512bf16_attention, &avx512bf16_training, &avx512vnni_int8};

}  // namespace wf
