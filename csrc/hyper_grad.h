// Manifold-constrained hyper-connections in training, and their gradients (ops/reference/hyper_connection.py), for four
// streams. Rows of a token: x [J d], its projections by fn times r = 1 / rms(x), the mixes, and what they become:
//
//   pre_j = sigmoid(scale_0 mix_j + base_j) + eps        out = sum_j pre_j x_j
//   post_k = 2 sigmoid(scale_1 mix_(J + k) + base_(J + k))
//   comb = sinkhorn(scale_2 mix + base)                  y_k = post_k f + sum_j comb[j, k] x_j
//
// Sixteen tokens at a time. Kept for the gradient are mixes and r; the Sinkhorn states are made again, tokens in lanes.
#pragma once

#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace wf {

constexpr int GRAD_STREAMS = 4, GRAD_TOKENS = 16;
constexpr int MOST_ITERS = 1000;

// The connection before a sublayer; without `post`, the last collapse, which has `pre` alone.
struct HyperGrad {
    const uint16_t *x;  // [tokens, J, hidden]
    const float *fn, *base, *scale;
    int64_t hidden;
    int iters;
    float eps, norm_eps;
    float *mixes;  // [tokens, outputs + 1]: the mixes, then r
    uint16_t *out;
    float *post, *comb;
    // The gradients of out, post, comb and of the streams as they go past the sublayer (or null); then what they become.
    const uint16_t *grad_out;
    const float *grad_post, *grad_comb;
    const uint16_t *grad_past;
    uint16_t *grad_x;
    bool head;

    WF_INLINE int outputs() const { return head ? GRAD_STREAMS : 2 * GRAD_STREAMS + GRAD_STREAMS * GRAD_STREAMS; }
    WF_INLINE int scales() const { return head ? 1 : 3; }
    // Floats of a partial sum: of the gradients of fn, base and scale.
    WF_INLINE int64_t partial() const { return outputs() * (GRAD_STREAMS * hidden + 1) + scales(); }
};

// And after it: y; or, from the gradient of y, those of all else.
struct HyperReturn {
    const uint16_t *f, *x;
    const float *post, *comb;
    int64_t hidden;
    uint16_t *y;
    const uint16_t *grad_y;
    uint16_t *grad_f, *grad_x;
    float *grad_post, *grad_comb;
};

template <class S>
struct HyperKernel {
    using F = typename S::F;
    using V = Lanes<S>;
    static constexpr int L = S::LANES, J = GRAD_STREAMS, T = GRAD_TOKENS;
    static constexpr int TILE = L == 16 ? 4 : 2;  // tokens, or vectors, of a product in registers
    static_assert(T % L == 0, "tokens fill lanes");

    static int64_t steps(const HyperGrad &job) { return 2 * job.iters - 1; }
    static int64_t bytes(const HyperGrad &job) {
        return job.head ? 64 : (steps(job) * (J * J + J) + J * J) * int64_t(sizeof(F));
    }

    // -- products with fn

    // m[o][token] = sum of x fn_o.
    template <int O>
    static WF_INLINE void project(const HyperGrad &job, const uint16_t *x, int count, float (&m)[O][T]) {
        constexpr int C = O == 24 && L == 16 ? 6 : 4;
        const int64_t width = J * job.hidden;
        by_tiles<TILE>(count, [&](auto tile, int64_t token) __attribute__((always_inline)) {
            constexpr int R = decltype(tile)::value;
            const uint16_t *rows = x + token * width;
            for (int o = 0; o < O; o += C) {
                const float *fn = job.fn + o * width;
                F sum[R][C] = {};
                V::each(width, [&](int64_t k, int n) __attribute__((always_inline)) {
                    F row[R];
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++) row[r] = V::words(rows + r * width + k, n);
#pragma GCC unroll 6
                    for (int c = 0; c < C; c++) {
                        const F weight = V::floats(fn + c * width + k, n);
#pragma GCC unroll 4
                        for (int r = 0; r < R; r++) sum[r][c] = S::fma(weight, row[r], sum[r][c]);
                    }
                });
                for (int r = 0; r < R; r++)
                    for (int c = 0; c < C; c++) m[o + c][token + r] = S::sum(sum[r][c]);
            }
        });
    }

    // grad_x = past + pre grad_out + sum_o a_o fn_o - b x
    template <int O>
    static WF_INLINE void spread(const HyperGrad &job, int64_t first, int count, const float (&pre)[J][T],
                                 const float (&a)[O][T], const float (&b)[T]) {
        const int64_t d = job.hidden, width = J * d;
        by_tiles<TILE>(count, [&](auto tile, int64_t token) __attribute__((always_inline)) {
            constexpr int R = decltype(tile)::value;
            const int64_t at = (first + token) * width;
            for (int j = 0; j < J; j++) {
                const auto vectors = [&](auto several, int64_t k, int n) __attribute__((always_inline)) {
                    constexpr int M = decltype(several)::value;
                    F sum[R][M];
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                        for (int v = 0; v < M; v++) {
                            const int64_t column = k + v * L, here = at + r * width + j * d + column;
                            const F out = V::words(job.grad_out + (first + token + r) * d + column, n);
                            F value = job.grad_past ? V::words(job.grad_past + here, n) : F{};
                            value = S::fma(S::all(pre[j][token + r]), out, value);
                            sum[r][v] = S::fma(S::all(-b[token + r]), V::words(job.x + here, n), value);
                        }
                    for (int o = 0; o < O; o++) {
                        const float *fn = job.fn + o * width + j * d + k;
                        F row[M];
#pragma GCC unroll 4
                        for (int v = 0; v < M; v++) row[v] = V::floats(fn + v * L, n);
#pragma GCC unroll 4
                        for (int r = 0; r < R; r++) {
                            const F factor = S::all(a[o][token + r]);
#pragma GCC unroll 4
                            for (int v = 0; v < M; v++) sum[r][v] = S::fma(factor, row[v], sum[r][v]);
                        }
                    }
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                        for (int v = 0; v < M; v++)
                            V::round(job.grad_x + at + r * width + j * d + k + v * L, sum[r][v], n);
                };
                int64_t k = 0;
                for (; k + TILE * L <= d; k += TILE * L) vectors(std::integral_constant<int, TILE>(), k, L);
                for (; k + L <= d; k += L) vectors(std::integral_constant<int, 1>(), k, L);
                if (k < d) vectors(std::integral_constant<int, 1>(), k, int(d - k));
            }
        });
    }

    // grad_fn_o += sum over tokens of a_o x
    template <int O>
    static WF_INLINE void gather(const HyperGrad &job, const uint16_t *x, int count, const float (&a)[O][T],
                                 float *grad_fn) {
        constexpr int C = O == 24 && L == 16 ? 6 : 4;
        const int64_t width = J * job.hidden;
        const auto vectors = [&](auto several, int64_t k, int n) __attribute__((always_inline)) {
            constexpr int M = decltype(several)::value;
            for (int o = 0; o < O; o += C) {
                float *to = grad_fn + o * width + k;
                F sum[C][M];
#pragma GCC unroll 6
                for (int c = 0; c < C; c++)
#pragma GCC unroll 4
                    for (int v = 0; v < M; v++) sum[c][v] = V::floats(to + c * width + v * L, n);
                for (int token = 0; token < count; token++) {
                    F row[M];
#pragma GCC unroll 4
                    for (int v = 0; v < M; v++) row[v] = V::words(x + token * width + k + v * L, n);
#pragma GCC unroll 6
                    for (int c = 0; c < C; c++) {
                        const F factor = S::all(a[o + c][token]);
#pragma GCC unroll 4
                        for (int v = 0; v < M; v++) sum[c][v] = S::fma(factor, row[v], sum[c][v]);
                    }
                }
#pragma GCC unroll 6
                for (int c = 0; c < C; c++)
#pragma GCC unroll 4
                    for (int v = 0; v < M; v++) V::store(to + c * width + v * L, sum[c][v], n);
            }
        };
        int64_t k = 0;
        for (; k + TILE * L <= width; k += TILE * L) vectors(std::integral_constant<int, TILE>(), k, L);
        for (; k + L <= width; k += L) vectors(std::integral_constant<int, 1>(), k, L);
        if (k < width) vectors(std::integral_constant<int, 1>(), k, int(width - k));
    }

    // -- Sinkhorn, one token a lane

    // One step: rows (over k) or columns (over j) of m divided by their sums + eps. `kept` takes m and the divisors'
    // reciprocals.
    template <bool ROWS, bool KEEP>
    static WF_INLINE void normalise(F (&m)[J][J], float eps, F *kept) {
#pragma GCC unroll 4
        for (int i = 0; i < J; i++) {
            F sum = F{};
#pragma GCC unroll 4
            for (int l = 0; l < J; l++) sum = sum + (ROWS ? m[i][l] : m[l][i]);
            const F inverse = 1.0f / (sum + eps);
#pragma GCC unroll 4
            for (int l = 0; l < J; l++) (ROWS ? m[i][l] : m[l][i]) *= inverse;
            if (KEEP) kept[J * J + i] = inverse;
        }
        if (!KEEP) return;
#pragma GCC unroll 16
        for (int i = 0; i < J * J; i++) kept[i] = m[i / J][i % J];
    }

    template <bool ROWS>
    static WF_INLINE void normalise_grad(F (&g)[J][J], const F *kept) {
#pragma GCC unroll 4
        for (int i = 0; i < J; i++) {
            F dot = F{};
#pragma GCC unroll 4
            for (int l = 0; l < J; l++) dot = S::fma(ROWS ? g[i][l] : g[l][i], kept[ROWS ? J * i + l : J * l + i], dot);
#pragma GCC unroll 4
            for (int l = 0; l < J; l++) {
                F &mine = ROWS ? g[i][l] : g[l][i];
                mine = (mine - dot) * kept[J * J + i];
            }
        }
    }

    template <bool KEEP>
    static WF_INLINE void sinkhorn(F (&m)[J][J], int iters, float eps, F *kept) {
        for (int j = 0; j < J; j++) {
            F top = m[j][0], sum = F{};
            for (int k = 1; k < J; k++) top = S::max(top, m[j][k]);
            for (int k = 0; k < J; k++) sum = sum + (m[j][k] = S::exp(m[j][k] - top));
            for (int k = 0; k < J; k++) {
                m[j][k] = m[j][k] / sum;
                if (KEEP) kept[J * j + k] = m[j][k];
                m[j][k] = m[j][k] + eps;
            }
        }
        if (KEEP) kept += J * J;
        normalise<false, KEEP>(m, eps, kept);
        for (int i = 1; i < iters; i++) {
            if (KEEP) kept += J * J + J;
            normalise<true, KEEP>(m, eps, kept);
            if (KEEP) kept += J * J + J;
            normalise<false, KEEP>(m, eps, kept);
        }
    }

    // g: the gradient of comb, then of its logits.
    static WF_INLINE void sinkhorn_grad(F (&g)[J][J], int iters, const F *kept) {
        const F *step = kept + J * J + (2 * iters - 2) * (J * J + J);
        normalise_grad<false>(g, step);
        for (int i = 1; i < iters; i++) {
            normalise_grad<true>(g, step -= J * J + J);
            normalise_grad<false>(g, step -= J * J + J);
        }
        for (int j = 0; j < J; j++) {
            F dot = F{};
            for (int k = 0; k < J; k++) dot = S::fma(g[j][k], kept[J * j + k], dot);
            for (int k = 0; k < J; k++) g[j][k] = (g[j][k] - dot) * kept[J * j + k];
        }
    }

    // -- before a sublayer

    template <int O>
    static WF_INLINE void read_block(const HyperGrad &job, int64_t first, int count, F *kept) {
        constexpr bool HEAD = O == J;
        const int64_t d = job.hidden, width = J * d;
        const uint16_t *x = job.x + first * width;
        alignas(64) float m[O][T] = {}, pre[J][T], post[J][T], comb[J * J][T];
        project<O>(job, x, count, m);
        for (int token = 0; token < count; token++) {
            F sum = F{};
            V::each(width, [&](int64_t k, int n) __attribute__((always_inline)) {
                const F value = V::words(x + token * width + k, n);
                sum = S::fma(value, value, sum);
            });
            const float r = 1 / std::sqrt(S::sum(sum) / float(width) + job.norm_eps);
            float *mixes = job.mixes + (first + token) * (O + 1);
            for (int o = 0; o < O; o++) mixes[o] = m[o][token] *= r;
            mixes[O] = r;
        }
        for (int lane = 0; lane < T; lane += L) {
            const auto mix = [&](int o, int which) __attribute__((always_inline)) {
                return S::fma(S::load(m[o] + lane), S::all(job.scale[which]), S::all(job.base[o]));
            };
            for (int j = 0; j < J; j++) S::store(pre[j] + lane, V::sigmoid(mix(j, 0)) + job.eps);
            if constexpr (!HEAD) {
                for (int j = 0; j < J; j++) S::store(post[j] + lane, 2.0f * V::sigmoid(mix(J + j, 1)));
                F states[J][J];
                for (int i = 0; i < J * J; i++) states[i / J][i % J] = mix(2 * J + i, 2);
                sinkhorn<false>(states, job.iters, job.eps, kept);
                for (int i = 0; i < J * J; i++) S::store(comb[i] + lane, states[i / J][i % J]);
            }
        }
        for (int token = 0; token < count; token++) {
            const uint16_t *row = x + token * width;
            F factor[J];
            for (int j = 0; j < J; j++) factor[j] = S::all(pre[j][token]);
            V::each(d, [&](int64_t k, int n) __attribute__((always_inline)) {
                F sum = factor[0] * V::words(row + k, n);
                for (int j = 1; j < J; j++) sum = S::fma(factor[j], V::words(row + j * d + k, n), sum);
                V::round(job.out + (first + token) * d + k, sum, n);
            });
            if constexpr (!HEAD) {
                for (int j = 0; j < J; j++) job.post[(first + token) * J + j] = post[j][token];
                for (int i = 0; i < J * J; i++) job.comb[(first + token) * J * J + i] = comb[i][token];
            }
        }
    }

    template <int O>
    static WF_INLINE void grad_block(const HyperGrad &job, int64_t first, int count, float *partial, F *kept) {
        constexpr bool HEAD = O == J;
        const int64_t d = job.hidden, width = J * d;
        const uint16_t *x = job.x + first * width;
        float *grad_base = partial + O * width, *grad_scale = grad_base + O;
        alignas(64) float m[O][T] = {}, r[T] = {}, pre[J][T] = {}, a[O][T] = {}, b[T];
        for (int token = 0; token < count; token++) {
            const float *mixes = job.mixes + (first + token) * (O + 1);
            for (int o = 0; o < O; o++) m[o][token] = mixes[o];
            r[token] = mixes[O];
            F dot[J] = {};
            const uint16_t *row = x + token * width, *grad = job.grad_out + (first + token) * d;
            V::each(d, [&](int64_t k, int n) __attribute__((always_inline)) {
                const F out = V::words(grad + k, n);
#pragma GCC unroll 4
                for (int j = 0; j < J; j++) dot[j] = S::fma(out, V::words(row + j * d + k, n), dot[j]);
            });
            for (int j = 0; j < J; j++) a[j][token] = S::sum(dot[j]);
            if constexpr (!HEAD) {
                for (int j = 0; j < J; j++) a[J + j][token] = job.grad_post[(first + token) * J + j];
                for (int i = 0; i < J * J; i++) a[2 * J + i][token] = job.grad_comb[(first + token) * J * J + i];
            }
        }
        for (int lane = 0; lane < T; lane += L) {
            F scales[3] = {}, through = F{};
            const F root = S::load(r + lane);
            const auto mix = [&](int o, int which) __attribute__((always_inline)) {
                return S::fma(S::load(m[o] + lane), S::all(job.scale[which]), S::all(job.base[o]));
            };
            // g: of output o's logit
            const auto take = [&](int o, int which, F g) __attribute__((always_inline)) {
                const F value = S::load(m[o] + lane), to = g * job.scale[which];
                scales[which] = S::fma(g, value, scales[which]);
                through = S::fma(to, value, through);
                grad_base[o] += S::sum(g);
                S::store(a[o] + lane, to * root);
            };
            for (int j = 0; j < J; j++) {
                const F s = V::sigmoid(mix(j, 0));
                S::store(pre[j] + lane, s + job.eps);
                take(j, 0, S::load(a[j] + lane) * s * (1.0f - s));
            }
            if constexpr (!HEAD) {
                for (int j = J; j < 2 * J; j++) {
                    const F s = V::sigmoid(mix(j, 1));
                    take(j, 1, S::load(a[j] + lane) * 2.0f * s * (1.0f - s));
                }
                F states[J][J], g[J][J];
                for (int i = 0; i < J * J; i++) states[i / J][i % J] = mix(2 * J + i, 2);
                sinkhorn<true>(states, job.iters, job.eps, kept);
                for (int i = 0; i < J * J; i++) g[i / J][i % J] = S::load(a[2 * J + i] + lane);
                sinkhorn_grad(g, job.iters, kept);
                for (int i = 0; i < J * J; i++) take(2 * J + i, 2, g[i / J][i % J]);
            }
            for (int s = 0; s < job.scales(); s++) grad_scale[s] += S::sum(scales[s]);
            S::store(b + lane, through * root * root * (1 / float(width)));
        }
        spread<O>(job, first, count, pre, a, b);
        gather<O>(job, x, count, a, partial);
    }

    // Tokens first .. first + count, at most GRAD_TOKENS.
    static void read(const HyperGrad &job, int64_t first, int64_t count, uint8_t *scratch) {
        F *kept = reinterpret_cast<F *>(scratch);
        job.head ? read_block<J>(job, first, int(count), kept) : read_block<24>(job, first, int(count), kept);
    }
    // The gradients of fn, base and scale are added to `partial`.
    static void read_grad(const HyperGrad &job, int64_t first, int64_t count, float *partial, uint8_t *scratch) {
        F *kept = reinterpret_cast<F *>(scratch);
        job.head ? grad_block<J>(job, first, int(count), partial, kept)
                 : grad_block<24>(job, first, int(count), partial, kept);
    }

    // -- after it

    static void give(const HyperReturn &job, int64_t first, int64_t end) {
        const int64_t d = job.hidden;
        for (int64_t token = first; token < end; token++) {
            const uint16_t *x = job.x + token * J * d, *f = job.f + token * d;
            const float *post = job.post + token * J, *comb = job.comb + token * J * J;
            uint16_t *y = job.y + token * J * d;
            V::each(d, [&](int64_t k, int n) __attribute__((always_inline)) {
                const F added = V::words(f + k, n);
                F row[J];
#pragma GCC unroll 4
                for (int j = 0; j < J; j++) row[j] = V::words(x + j * d + k, n);
#pragma GCC unroll 4
                for (int i = 0; i < J; i++) {
                    F sum = added * post[i];
#pragma GCC unroll 4
                    for (int j = 0; j < J; j++) sum = S::fma(S::all(comb[j * J + i]), row[j], sum);
                    V::round(y + i * d + k, sum, n);
                }
            });
        }
    }

    static void give_grad(const HyperReturn &job, int64_t first, int64_t end) {
        const int64_t d = job.hidden;
        for (int64_t token = first; token < end; token++) {
            const uint16_t *x = job.x + token * J * d, *f = job.f + token * d, *grad = job.grad_y + token * J * d;
            const float *post = job.post + token * J, *comb = job.comb + token * J * J;
            uint16_t *to = job.grad_x + token * J * d;
            F posts[J] = {}, combs[J][J] = {};
            V::each(d, [&](int64_t k, int n) __attribute__((always_inline)) {
                F g[J], sum = F{};
                const F added = V::words(f + k, n);
#pragma GCC unroll 4
                for (int i = 0; i < J; i++) {
                    g[i] = V::words(grad + i * d + k, n);
                    posts[i] = S::fma(g[i], added, posts[i]);
                    sum = S::fma(S::all(post[i]), g[i], sum);
                }
                V::round(job.grad_f + token * d + k, sum, n);
#pragma GCC unroll 4
                for (int j = 0; j < J; j++) {
                    const F row = V::words(x + j * d + k, n);
                    F back = F{};
#pragma GCC unroll 4
                    for (int i = 0; i < J; i++) {
                        combs[j][i] = S::fma(row, g[i], combs[j][i]);
                        back = S::fma(S::all(comb[j * J + i]), g[i], back);
                    }
                    V::round(to + j * d + k, back, n);
                }
            });
            for (int i = 0; i < J; i++) job.grad_post[token * J + i] = S::sum(posts[i]);
            for (int i = 0; i < J * J; i++) job.grad_comb[token * J * J + i] = S::sum(combs[i / J][i % J]);
        }
    }
};

}  // namespace wf
