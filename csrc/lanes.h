// Rows of any length over a Vector: whole vectors, then one that is filled up with zeros. What the kernels of training are
// written in.
#pragma once

#include "simd.h"

namespace wf {

template <class S>
struct Lanes {
    using F = typename S::F;
    static constexpr int L = S::LANES;

    // `count` values, at most L.
    static WF_INLINE F floats(const float *from, int count) {
        if (count == L) return S::load(from);
        float padded[L] = {};
        for (int i = 0; i < count; i++) padded[i] = from[i];
        return S::load(padded);
    }
    static WF_INLINE F words(const uint16_t *from, int count) {
        if (count == L) return S::widen(from);
        float padded[L] = {};
        for (int i = 0; i < count; i++) padded[i] = bf16_to_float(from[i]);
        return S::load(padded);
    }
    static WF_INLINE void store(float *to, F value, int count) {
        if (count == L) return S::store(to, value);
        float padded[L];
        S::store(padded, value);
        for (int i = 0; i < count; i++) to[i] = padded[i];
    }
    // Rounded to bfloat16: a NaN that training meets has the quiet bit and stays one.
    static WF_INLINE void round(uint16_t *to, F value, int count) {
        if (count == L) return S::narrow(to, value);
        float padded[L];
        S::store(padded, value);
        for (int i = 0; i < count; i++) to[i] = float_to_bf16(padded[i]);
    }

    // body(k, count) for k = 0, L, .. < n.
    template <class Body>
    static WF_INLINE void each(int64_t n, const Body &body) {
        int64_t k = 0;
        for (; k + L <= n; k += L) body(k, L);
        if (k < n) body(k, int(n - k));
    }

    static WF_INLINE F less(F a, F b) { return a < b ? a : b; }
    // 1 / (1 + e^-z)
    static WF_INLINE F sigmoid(F z) {
        const F zero = F{}, e = S::exp(z > zero ? -z : z);
        return (z > zero ? S::all(1.0f) : e) / (1.0f + e);
    }
};

}  // namespace wf
