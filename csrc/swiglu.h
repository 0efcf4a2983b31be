// SwiGLU with clamped inputs and a routing weight, and its gradient (ops/reference/expert.py).
//
//   gate = min(gate, limit), up = clamp(up, -limit, limit):   inner = gate sigmoid(gate) up route
#pragma once

#include "lanes.h"

namespace wf {

struct Swiglu {
    const uint16_t *gate, *up;  // [rows, inter]
    const float *route;         // [rows]; null: 1
    int64_t inter;
    float limit;
    uint16_t *inner;
    const uint16_t *grad;  // of inner
    uint16_t *grad_gate, *grad_up;
    float *grad_route;
};

template <class S>
struct SwigluKernel {
    using F = typename S::F;
    using V = Lanes<S>;

    static void forward(const Swiglu &job, int64_t first, int64_t end) {
        const F limit = S::all(job.limit);
        for (int64_t row = first; row < end; row++) {
            const F route = S::all(job.route ? job.route[row] : 1.0f);
            const int64_t at = row * job.inter;
            V::each(job.inter, [&](int64_t k, int n) __attribute__((always_inline)) {
                const F gate = V::less(V::words(job.gate + at + k, n), limit);
                const F up = S::max(V::less(V::words(job.up + at + k, n), limit), -limit);
                V::round(job.inner + at + k, gate * V::sigmoid(gate) * up * route, n);
            });
        }
    }

    static void grad(const Swiglu &job, int64_t first, int64_t end) {
        const F limit = S::all(job.limit);
        for (int64_t row = first; row < end; row++) {
            const F route = S::all(job.route ? job.route[row] : 1.0f);
            const int64_t at = row * job.inter;
            F routes = F{};
            V::each(job.inter, [&](int64_t k, int n) __attribute__((always_inline)) {
                const F gate = V::words(job.gate + at + k, n), up = V::words(job.up + at + k, n);
                const F g = V::less(gate, limit), u = S::max(V::less(up, limit), -limit), s = V::sigmoid(g);
                const F back = V::words(job.grad + at + k, n), silu = g * s;
                routes = S::fma(back * silu, u, routes);
                const F routed = back * route, slope = s * (1.0f + g * (1.0f - s));
                V::round(job.grad_gate + at + k, gate > limit ? F{} : routed * u * slope, n);
                V::round(job.grad_up + at + k, ((up > limit) | (up < -limit)) ? F{} : routed * silu, n);
            });
            if (job.grad_route) job.grad_route[row] = S::sum(routes);
        }
    }
};

}  // namespace wf
