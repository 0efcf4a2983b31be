// Losses and their gradients in one pass over scores (train/chunked_loss.py, ops/reference/index_loss.py).
//
//   cross-entropy   nats = log sum exp(z) - z_target;   grad = softmax(z) - [target]
//   index           I_i = sum_h w_h relu(d_hi), of entries that count;   KL(mass / sum mass || softmax(I));
//                   grad of d_hi = w_h [d_hi > 0] g_i, of w_h = sum_i relu(d_hi) g_i,  g = softmax(I) - mass / sum mass
#pragma once

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace wf {

struct CrossEntropy {
    uint16_t *logits;        // [rows, vocabulary], which become their gradient
    const int64_t *targets;  // negative: the row counts nothing
    int64_t vocabulary;
    float *nats;
};

// Queries of one sequence, as in joint.h: the one of token t sees the first (t + 1) / ratio entries, of them the chosen ones.
struct IndexLoss {
    const float *dots;        // [queries, heads, num_entries]
    const uint16_t *weights;  // [queries, heads]
    const float *mass;        // [queries, num_entries]
    const uint8_t *chosen;    // the same; null: all
    int64_t heads, num_entries, ratio;
    int64_t token;  // of the first query
    bool rounded;   // dots, their products with the weights and the sums go through bfloat16
    float *loss;    // [queries]
    uint16_t *grad_dots;
    float *grad_weights;
};

template <class S>
struct LossKernel {
    using F = typename S::F;
    using V = Lanes<S>;
    static constexpr int L = S::LANES;

    static void cross_entropy(const CrossEntropy &job, int64_t first, int64_t end) {
        const int64_t n = job.vocabulary;
        for (int64_t row = first; row < end; row++) {
            uint16_t *z = job.logits + row * n;
            const int64_t target = job.targets[row];
            if (target < 0) {
                job.nats[row] = 0;
                std::memset(z, 0, size_t(2 * n));
                continue;
            }
            F most = S::all(-INFINITY), total = F{};
            int64_t k = 0;
            for (; k + L <= n; k += L) most = S::max(S::widen(z + k), most);
            float top = S::largest(most), sum = 0;
            for (int64_t i = k; i < n; i++) top = bf16_to_float(z[i]) > top ? bf16_to_float(z[i]) : top;
            for (k = 0; k + L <= n; k += L) total = total + S::exp(S::widen(z + k) - top);
            sum = S::sum(total);
            for (int64_t i = k; i < n; i++) sum += std::exp(bf16_to_float(z[i]) - top);
            const float of_target = bf16_to_float(z[target]), part = 1 / sum;
            job.nats[row] = std::log(sum) + (top - of_target);
            V::each(n, [&](int64_t at, int count) __attribute__((always_inline)) {
                V::round(z + at, S::exp(V::words(z + at, count) - top) * part, count);
            });
            z[target] = float_to_bf16(std::exp(of_target - top) * part - 1);
        }
    }

    static int64_t index_bytes(const IndexLoss &job) { return 4 * (job.num_entries + L); }

    // Queries first .. end; scratch: index_bytes.
    static void index(const IndexLoss &job, int64_t first, int64_t end, uint8_t *scratch) {
        const int64_t m = job.num_entries;
        float *scores = reinterpret_cast<float *>(scratch);
        for (int64_t t = first; t < end; t++) {
            const int64_t at = t * job.heads, complete = (job.token + t + 1) / job.ratio,
                          seen = complete < m ? complete : m;
            const float *dots = job.dots + at * m, *mass = job.mass + t * m;
            uint16_t *grad = job.grad_dots + at * m;
            const uint8_t *chosen = job.chosen ? job.chosen + t * m : nullptr;
            job.loss[t] = 0;
            float taught = 0;
            for (int64_t i = 0; i < seen; i++) taught += !chosen || chosen[i] ? mass[i] : 0;
            if (!(taught > 0)) {
                std::memset(grad, 0, size_t(2 * job.heads * m));
                for (int64_t h = 0; h < job.heads; h++) job.grad_weights[at + h] = 0;
                continue;
            }
            V::each(seen, [&](int64_t i, int n) __attribute__((always_inline)) {
                F sum = F{};
                for (int64_t h = 0; h < job.heads; h++) {
                    const F dot = S::max(V::floats(dots + h * m + i, n), F{}), weight = weight_of(job, at + h);
                    sum = job.rounded ? sum + S::rounded(S::rounded(dot) * weight) : S::fma(dot, weight, sum);
                }
                V::store(scores + i, job.rounded ? S::rounded(sum) : sum, n);
            });
            if (chosen)
                for (int64_t i = 0; i < seen; i++) scores[i] = chosen[i] ? scores[i] : -INFINITY;
            for (int64_t i = seen; i % L; i++) scores[i] = -INFINITY;
            F most = S::all(-INFINITY), total = F{};
            for (int64_t i = 0; i < seen; i += L) most = S::max(most, S::load(scores + i));
            const float top = S::largest(most);
            for (int64_t i = 0; i < seen; i += L) total = total + S::exp(S::load(scores + i) - top);
            const float sum = S::sum(total), log_sum = std::log(sum), log_taught = std::log(taught);
            float loss = 0;
            for (int64_t i = 0; i < seen; i++) {
                if (chosen && !chosen[i]) {
                    scores[i] = 0;
                    continue;
                }
                const float teacher = mass[i] / taught, z = scores[i] - top;
                if (teacher > 0) loss += teacher * (std::log(mass[i]) - log_taught - z + log_sum);
                scores[i] = z;
            }
            job.loss[t] = loss;
            V::each(seen, [&](int64_t i, int n) __attribute__((always_inline)) {
                const F student = S::exp(V::floats(scores + i, n)) * (1 / sum);
                V::store(scores + i, student - V::floats(mass + i, n) * (1 / taught), n);
            });
            if (chosen)
                for (int64_t i = 0; i < seen; i++) scores[i] = chosen[i] ? scores[i] : 0;
            for (int64_t h = 0; h < job.heads; h++) {
                const F weight = weight_of(job, at + h);
                F back = F{};
                V::each(seen, [&](int64_t i, int n) __attribute__((always_inline)) {
                    const F dot = V::floats(dots + h * m + i, n), g = V::floats(scores + i, n);
                    back = S::fma(S::max(dot, F{}), g, back);
                    V::round(grad + h * m + i, dot > F{} ? weight * g : F{}, n);
                });
                std::memset(grad + h * m + seen, 0, size_t(2 * (m - seen)));
                job.grad_weights[at + h] = S::sum(back);
            }
        }
    }

    static WF_INLINE F weight_of(const IndexLoss &job, int64_t at) { return S::all(bf16_to_float(job.weights[at])); }
};

}  // namespace wf
