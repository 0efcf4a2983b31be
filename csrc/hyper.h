// mHC for one token; see wavefold.h for the shapes.
#pragma once

#include <cstdint>

namespace wf {

constexpr int MOST_STREAMS = 8;

struct HcSplit {
    const float *mixes, *base, *scale;
    int streams, iters;
    float eps;
    float *pre, *post, *comb;
};

struct HcCollapse {
    const uint16_t *x;
    const float *pre;
    int streams;
    int64_t hidden;
    uint16_t *out;
};

struct HcExpand {
    const uint16_t *f, *x;
    const float *post, *comb;
    int streams;
    int64_t hidden;
    uint16_t *out;
};

// pre [streams] of the last collapse, from the streams' projection and the reciprocal of their RMS.
void hc_head(const float *mixes, float factor, const float *base, float scale, float eps, int streams, float *pre);

void hc_split(const HcSplit &job, int64_t token);
void hc_collapse(const HcCollapse &job, int64_t token);
void hc_expand(const HcExpand &job, int64_t token);

}  // namespace wf
