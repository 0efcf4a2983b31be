// NEON with FEAT_BF16: Neoverse since V1 and N2, Apple since M2. Codes become bfloat16 in registers and meet x in bfdot, which adds
// two products to a lane.
//
//   FP4    16 bytes look up the low and the high byte of 32 values: those of the even columns, then of the odd ones; x is laid
//          out to match
//   FP8    a magnitude's bits move into place under another exponent; its first sixteen, subnormal ones among them, are looked up
//
// Products of bfloat16 are exact here, too. Their sum in twos is rounded to odd, as is what is added to a lane, so that a step
// errs by less than a unit in the last place where a multiply-add errs by half of one; subnormal values count as zero. That
// is what FPCR says while its EBF bit is off, as it is wherever nobody asks for it (FEAT_EBF16): a row's bits are one processor's as
// another's. They do not depend on the rows beside it.
#include "neon.h"

#include "attention.h"
#include "blocks.h"
#include "int8.h"
#include "training.h"

namespace wf {
namespace {

struct NeonBf16 : Neon {
    static constexpr int TILE_ROWS = 6, TILE_VECTORS = 4, TOGETHER = 8;
    static constexpr bool MULTIPLIES_PAIRS = true, MULTIPLIES_QUADS = true;

    static WF_INLINE F dot(F sum, U a, U b) {
        return (F)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)b);
    }
    // Lanes of `sum`: row 0 of `a` by row 0 of `b`, 0 by 1, 1 by 0, 1 by 1. The same as two steps of `dot` each.
    static WF_INLINE F quads(F sum, U a, U b) {
        return (F)vbfmmlaq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)b);
    }
    static WF_INLINE U first_halves(U a, U b) { return (U)vzip1q_u64((uint64x2_t)a, (uint64x2_t)b); }
    static WF_INLINE U last_halves(U a, U b) { return (U)vzip2q_u64((uint64x2_t)a, (uint64x2_t)b); }
    static WF_INLINE void narrow(uint16_t *to, F value) {
        vst1_u16(to, vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)value)));
    }
};

using Plain = SimdRows<NeonBf16>;  // products with float32 weights, and decoding
using F = NeonBf16::F;
using U = NeonBf16::U;

struct Pairs {
    using X = uint16_t;
    static constexpr int X_CHUNK = CHUNK;
    WF_INLINE bool nan() const { return false; }
    static WF_INLINE U x_at(const uint16_t *x) { return NeonBf16::read<U>(x); }
};

struct FP4 : Pairs {
    static constexpr int BYTES = 64, SCALES = 4;
    static WF_INLINE void load(const uint8_t *codes, U (&w)[4]) {
        const uint8x16_t both = vld1q_u8(codes), lows = vld1q_u8(E2M1_LOW), highs = vld1q_u8(E2M1_HIGH);
        const uint8x16_t nibbles[2] = {vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8(both, 4)};
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const uint8x16_t low = vqtbl1q_u8(lows, nibbles[i]), high = vqtbl1q_u8(highs, nibbles[i]);
            w[2 * i] = (U)vzip1q_u8(low, high), w[2 * i + 1] = (U)vzip2q_u8(low, high);
        }
    }
    template <int R>
    WF_INLINE void chunk(const uint8_t *codes, const float *values, const uint8_t *scales, const uint16_t *x,
                         F (&sum)[R]) {
#pragma GCC unroll 4
        for (int k = 0; k < CHUNK; k += 32, x += 32) {
            U w[4];
            load(codes + k / 2, w);
            const F scale = NeonBf16::all(values[scales[k / 32]]);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                F part = {};
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) part = NeonBf16::dot(part, w[i], x_at(x + r * CHUNK + 8 * i));
                sum[r] = NeonBf16::fma(part, scale, sum[r]);
            }
        }
    }
};

// The two bytes of the first sixteen e4m3 magnitudes in bfloat16.
constexpr uint8_t E4M3_LOW[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x20, 0x40, 0x60,
                                  0x80, 0x90, 0xA0, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0};
constexpr uint8_t E4M3_HIGH[16] = {0x00, 0x3B, 0x3B, 0x3B, 0x3C, 0x3C, 0x3C, 0x3C,
                                   0x3C, 0x3C, 0x3C, 0x3C, 0x3C, 0x3C, 0x3C, 0x3C};

struct FP8 : Pairs {
    static constexpr int BYTES = 128, SCALES = 1;
    uint8x16_t largest = vdupq_n_u8(0);

    WF_INLINE void load(const uint8_t *codes, U (&w)[2]) {
        const uint8x16_t code = vld1q_u8(codes), sign = vdupq_n_u8(128), magnitude = vbicq_u8(code, sign);
        largest = vmaxq_u8(largest, magnitude);
        const uint8x16_t low = vqtbx1q_u8(vshlq_n_u8(magnitude, 4), vld1q_u8(E4M3_LOW), magnitude);
        const uint8x16_t exponent = vsraq_n_u8(vdupq_n_u8(0x3C), magnitude, 4);
        const uint8x16_t high = vbslq_u8(sign, code, vqtbx1q_u8(exponent, vld1q_u8(E4M3_HIGH), magnitude));
        w[0] = (U)vzip1q_u8(low, high), w[1] = (U)vzip2q_u8(low, high);
    }
    WF_INLINE bool nan() const { return vmaxvq_u8(largest) == 127; }
    template <int R>
    WF_INLINE void chunk(const uint8_t *codes, const float *values, const uint8_t *scales, const uint16_t *x,
                         F (&sum)[R]) {
        F parts[R][2] = {};
#pragma GCC unroll 8
        for (int k = 0; k < CHUNK; k += 16, x += 16) {
            U w[2];
            load(codes + k, w);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 2
                for (int i = 0; i < 2; i++) parts[r][i] = NeonBf16::dot(parts[r][i], w[i], x_at(x + r * CHUNK + 8 * i));
        }
        const F scale = NeonBf16::all(values[*scales]);
        for (int r = 0; r < R; r++) sum[r] = NeonBf16::fma(parts[r][0] + parts[r][1], scale, sum[r]);
    }
};

struct BF16 : Pairs {
    static constexpr int BYTES = 256, SCALES = 0;
    template <int R>
    WF_INLINE void chunk(const uint8_t *codes, const float *, const uint8_t *, const uint16_t *x, F (&sum)[R]) {
        F parts[R][2] = {};
#pragma GCC unroll 8
        for (int k = 0; k < CHUNK; k += 16, x += 16) {
            const U w[2] = {NeonBf16::read<U>(codes + 2 * k), NeonBf16::read<U>(codes + 2 * k + 16)};
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 2
                for (int i = 0; i < 2; i++) parts[r][i] = NeonBf16::dot(parts[r][i], w[i], x_at(x + r * CHUNK + 8 * i));
        }
        for (int r = 0; r < R; r++) sum[r] = sum[r] + (parts[r][0] + parts[r][1]);
    }
};

void rows(const Matrix &m, const Feed &feed, const void *x, int x_rows, int64_t first, int64_t end, float *y,
          int64_t stride) {
    switch (m.form) {
        case WF_FP4: return Plain::rows_for<FP4>(m, feed, x, x_rows, first, end, y, stride);
        case WF_FP8: return Plain::rows_for<FP8>(m, feed, x, x_rows, first, end, y, stride);
        case WF_BF16: return Plain::rows_for<BF16>(m, feed, x, x_rows, first, end, y, stride);
        default: return Plain::rows_for<Plain::FP32>(m, feed, x, x_rows, first, end, y, stride);
    }
}

int64_t arranged_bytes(const Matrix &m, int64_t x_rows) {
    return m.form == WF_FP32 ? Plain::arranged_bytes(m, x_rows) : x_rows * m.chunks() * CHUNK * 2;
}

void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, void *arranged) {
    if (m.form == WF_FP32) return Plain::arrange(m, x, x_rows, arranged);
    uint16_t *to = static_cast<uint16_t *>(arranged);
    for (int64_t k = 0; k < m.columns; k += CHUNK)
        for (int64_t r = 0; r < x_rows; r++, to += CHUNK) {
            const int64_t left = m.columns - k;
            std::memset(to, 0, CHUNK * 2);
            std::memcpy(to, x + r * m.columns + k, size_t(2 * (left < CHUNK ? left : CHUNK)));
            for (int i = 0; i < CHUNK && m.form == WF_FP4; i += 32) {
                const uint16x8x2_t first = vld2q_u16(to + i), last = vld2q_u16(to + i + 16);
                vst1q_u16(to + i, first.val[0]), vst1q_u16(to + i + 8, last.val[0]);
                vst1q_u16(to + i + 16, first.val[1]), vst1q_u16(to + i + 24, last.val[1]);
            }
        }
}

constexpr AttentionKernels attention = attention_kernels<NeonBf16>();

}  // namespace

const TrainingKernels neonbf16_training = training_kernels<NeonBf16>();
const Kernels neonbf16_kernels = {"neonbf16",         has_neon_bf16, MAX_ROWS,        arrange,
                                  arranged_bytes,     rows,          Plain::decode,   &attention,
                                  &neonbf16_training, &neon_kernels, &neon_i8mm_int8, &neon_blocks};

}  // namespace wf
