// GGUF's blocks in NEON: a strip is four vectors, and codebooks are read value by value.
#pragma once

#include "block_vector.h"
#include "neon.h"

namespace wf {
namespace {

struct NeonBlocks : BlockVector<NeonInt8> {
    static constexpr int BLOCK_ROWS = 4;

    static WF_INLINE F half_values(const uint8_t *from) { return (F)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))); }
    static WF_INLINE B twice(const uint8_t *from, int at) { return bytes(from + at % 32); }
    static WF_INLINE B twice_shifted(const uint8_t *from, int at) {
        return at < 32 ? twice(from, at) : shifted(twice(from, at), 2);
    }
    template <int N>
    static WF_INLINE B pieces(const uint8_t *from, int stride, int at) {
        return bytes(from + at / N * stride + at % N);
    }
    static WF_INLINE B look_up_16(const uint8_t (&table)[16], B index) { return look_up(table, index); }
    // Sixteen bytes have one scale.
    static WF_INLINE H pick(const Words &words, const uint16_t *index) { return (H)vdupq_n_s16(words.of[index[0]]); }
    using BlockVector<NeonInt8>::pick;

    // Sums of two products, which 16 bits hold as codes are at most 63, by a scale.
    static WF_INLINE U dot_scaled(U sum, B w, const int8_t *x, H scales) {
        const int8x16_t a = (int8x16_t)w, b = vld1q_s8(x);
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
        const int16x8_t pairs = vpaddq_s16(low, high), scale = (int16x8_t)scales;
        const int32x4_t first = vmull_s16(vget_low_s16(pairs), vget_low_s16(scale));
        return (U)vaddq_s32((int32x4_t)sum, vpaddq_s32(first, vmull_high_s16(pairs, scale)));
    }
    template <bool FULL>
    static WF_INLINE U dot_block(U sum, B w, const int8_t *x) {
        const int8x16_t a = (int8x16_t)w, b = vld1q_s8(x);
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
        return (U)vaddq_s32((int32x4_t)sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    }
};

}  // namespace
}  // namespace wf
