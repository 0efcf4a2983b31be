// Four floats in NEON, which every ARMv8-A processor has, and int8 products without an instruction for four of them.
#pragma once

#include <arm_neon.h>

#include "int8_vector.h"
#include "rows_simd.h"

namespace wf {
namespace {

struct Neon : Vector<4> {
    static constexpr int TILE_ROWS = 4, TILE_VECTORS = 4, FLOAT_VECTORS = 4;

    static WF_INLINE F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
    static WF_INLINE F dot(F sum, U a, U b) {
        const U high = all_pairs(0xFFFF0000);
        return fma(bits(a & high), bits(b & high), fma(bits(a << 16), bits(b << 16), sum));
    }
    static WF_INLINE float sum(F value) { return vaddvq_f32((float32x4_t)value); }
    static WF_INLINE float largest(F value) { return vmaxvq_f32((float32x4_t)value); }
    static WF_INLINE U words(const uint16_t *from) { return (U)vmovl_u16(vld1_u16(from)); }
    static WF_INLINE F widen(const uint16_t *from) { return bits(words(from) << 16); }
    static WF_INLINE F of_bytes(const int8_t *from) {
        int32_t four;
        std::memcpy(&four, from, sizeof four);
        const int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
        return (F)vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
    }
    static WF_INLINE void narrow(uint16_t *to, F value) { vst1_u16(to, vmovn_u32((uint32x4_t)round(value))); }
    static WF_INLINE U zip(const uint16_t *low, const uint16_t *high) { return words(low) | words(high) << 16; }
    static WF_INLINE void transpose(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride) {
        const uint32x4x2_t ab = vtrnq_u32(vld1q_u32(in), vld1q_u32(in + in_stride));
        const uint32x4x2_t cd = vtrnq_u32(vld1q_u32(in + 2 * in_stride), vld1q_u32(in + 3 * in_stride));
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            vst1q_u32(out + i * out_stride, vcombine_u32(vget_low_u32(ab.val[i]), vget_low_u32(cd.val[i])));
            vst1q_u32(out + (2 + i) * out_stride, vcombine_u32(vget_high_u32(ab.val[i]), vget_high_u32(cd.val[i])));
        }
    }

    // 2 N codes as float16 bits are 2^-8 of their value.
    static WF_INLINE void e4m3(const uint8_t *codes, F *w) {
        const uint16x8_t wide = vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(codes))));
        const uint16x8_t halves = vandq_u16(vshlq_n_u16(wide, 7), vdupq_n_u16(0xBF80));
        w[0] = (F)vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves)));
        w[1] = (F)vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves)));
    }
    static WF_INLINE B look_up(const uint8_t (&table)[16], B index) {
        return (B)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)index);
    }
    static WF_INLINE B zip_first(B a, B b) { return (B)vzip1q_u8((uint8x16_t)a, (uint8x16_t)b); }
    static WF_INLINE B zip_last(B a, B b) { return (B)vzip2q_u8((uint8x16_t)a, (uint8x16_t)b); }
    static WF_INLINE void e2m1(const uint8_t *codes, F (&w)[8]) { e2m1_of_bytes<Neon>(codes, w); }
    static WF_INLINE int e2m1_column(int j, int l) { return e2m1_column_of_bytes(j, l); }
    static WF_INLINE F fours(const float *values, const uint8_t *scales) { return all(values[*scales]); }
};

struct NeonInt8 : Int8Vector<Neon> {
    static constexpr int INT8_TILE_ROWS = 4, INT8_TILE_VECTORS = 4;
    static constexpr bool SHIFTS = true;

    // Four products of a lane: pairs of them in 16 bits, which 2 * 120 * 127 fits into.
    static WF_INLINE U dot4(U sum, B w, B x) {
        const int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
        return (U)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
    }
    static WF_INLINE F floats(U sum) { return (F)vcvtq_f32_s32((int32x4_t)sum); }
    static WF_INLINE int8x16_t e2m1_table() { return vld1q_s8(INT8_OF_E2M1); }
    static WF_INLINE void e2m1(int8x16_t table, U codes, U shift, B &low, B &high) {
        const B both = (B)codes;
        const int8x16_t by = (int8x16_t)(shift * 0x01010101);
        low = (B)vshlq_s8(vqtbl1q_s8(table, (uint8x16_t)(both & 15)), by);
        high = (B)vshlq_s8(vqtbl1q_s8(table, (uint8x16_t)(both >> 4)), by);
    }
    static WF_INLINE uint8x16x4_t e4m3_table() { return vld1q_u8_x4(int8_below_e4m3()); }
    static WF_INLINE B e4m3(uint8x16x4_t table, B codes, B most) {
        const uint8x16_t code = (uint8x16_t)codes;
        const uint8x16_t below = vsubq_u8((uint8x16_t)most, vandq_u8(code, vdupq_n_u8(127)));
        const int8x16_t value = vreinterpretq_s8_u8(vqtbl4q_u8(table, below));  // zero from 64 on
        return (B)vbslq_s8(vcltzq_s8(vreinterpretq_s8_u8(code)), vnegq_s8(value), value);
    }
};

}  // namespace
}  // namespace wf
