// Manifold-constrained hyper-connections around a sublayer (ops/reference/hyper_connection.py): the residual is `streams`
// vectors of `hidden` bfloat16 values for each token. Products and sums are rounded one by one, as the released code does.
#include "hyper.h"

#include <cmath>

#include "kernels.h"

namespace wf {
namespace {

constexpr int MOST = MOST_STREAMS;
constexpr int LANES = 16;

float sigmoid(float z) { return 1.0f / (1.0f + std::exp(-z)); }

}  // namespace

void hc_head(const float *mixes, float factor, const float *base, float scale, float eps, int streams, float *pre) {
    for (int j = 0; j < streams; j++) pre[j] = sigmoid(mixes[j] * factor * scale + base[j]) + eps;
}

void hc_split(const HcSplit &job, int64_t token) {
    const int J = job.streams;
    const float *mixes = job.mixes + token * (2 * J + J * J);
    float *pre = job.pre + token * J, *post = job.post + token * J, *comb = job.comb + token * J * J;
    for (int j = 0; j < J; j++) {
        pre[j] = sigmoid(mixes[j] * job.scale[0] + job.base[j]) + job.eps;
        post[j] = 2 * sigmoid(mixes[J + j] * job.scale[1] + job.base[J + j]);
    }
    // comb = softmax of the rows + eps, then columns and rows in turn, `iters` times, columns last
    float m[MOST][MOST];
    for (int j = 0; j < J; j++) {
        float top = -INFINITY, sum = 0;
        for (int k = 0; k < J; k++) {
            m[j][k] = mixes[2 * J + j * J + k] * job.scale[2] + job.base[2 * J + j * J + k];
            top = m[j][k] > top ? m[j][k] : top;
        }
        for (int k = 0; k < J; k++) sum += m[j][k] = std::exp(m[j][k] - top);
        for (int k = 0; k < J; k++) m[j][k] = m[j][k] / sum + job.eps;
    }
    for (int iteration = 0; iteration < job.iters; iteration++) {
        if (iteration > 0) {
            for (int j = 0; j < J; j++) {
                float sum = 0;
                for (int k = 0; k < J; k++) sum += m[j][k];
                for (int k = 0; k < J; k++) m[j][k] /= sum + job.eps;
            }
        }
        float sums[MOST] = {};
        for (int j = 0; j < J; j++)
            for (int k = 0; k < J; k++) sums[k] += m[j][k];
        for (int j = 0; j < J; j++)
            for (int k = 0; k < J; k++) m[j][k] /= sums[k] + job.eps;
    }
    for (int j = 0; j < J; j++)
        for (int k = 0; k < J; k++) comb[j * J + k] = m[j][k];
}

WF_CLONES void hc_collapse(const HcCollapse &job, int64_t token) {
    const int J = job.streams;
    const int64_t d = job.hidden;
    const uint16_t *x = job.x + token * J * d;
    const float *pre = job.pre + token * J;
    uint16_t *out = job.out + token * d;
    for (int64_t first = 0; first < d; first += LANES) {
        const int count = int(d - first < LANES ? d - first : LANES);
        float sum[LANES] = {};
        for (int j = 0; j < J; j++)
            for (int l = 0; l < count; l++) sum[l] += pre[j] * bf16_to_float(x[j * d + first + l]);
        for (int l = 0; l < count; l++) out[first + l] = float_to_bf16(sum[l]);
    }
}

WF_CLONES void hc_expand(const HcExpand &job, int64_t token) {
    const int J = job.streams;
    const int64_t d = job.hidden;
    const uint16_t *x = job.x + token * J * d, *f = job.f + token * d;
    const float *post = job.post + token * J, *comb = job.comb + token * J * J;
    uint16_t *out = job.out + token * J * d;
    for (int64_t first = 0; first < d; first += LANES) {
        const int count = int(d - first < LANES ? d - first : LANES);
        float rows[MOST][LANES], result[LANES];
        for (int j = 0; j < J; j++)
            for (int l = 0; l < count; l++) rows[j][l] = bf16_to_float(x[j * d + first + l]);
        for (int k = 0; k < J; k++) {
            for (int l = 0; l < count; l++) result[l] = comb[k] * rows[0][l];
            for (int j = 1; j < J; j++)
                for (int l = 0; l < count; l++) result[l] += comb[j * J + k] * rows[j][l];
            for (int l = 0; l < count; l++)
                out[k * d + first + l] = float_to_bf16(result[l] + post[k] * bf16_to_float(f[first + l]));
        }
    }
}

}  // namespace wf
