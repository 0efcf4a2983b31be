// What some experts make of rows, summed by token (wavefold/experts).
#pragma once

#include <vector>

#include "block.h"
#include "low_rank.h"
#include "products.h"

namespace wf {

// h bfloat16 [tokens, hidden] through the experts of chosen [tokens, topk], weighted by route [tokens, topk] -> out.
struct Mix {
    int64_t tokens, hidden, topk;
    const uint16_t *h;
    const int64_t *chosen;
    const float *route;
    float limit;
    bool released;
    float *sum;
    uint16_t *out;
    const std::vector<Adapted> *adapted;
};

// The sum over `experts`, in their order. False when there is no memory for scratch.
bool mix_experts(Runtime &runtime, const Mix &mix, const std::vector<Expert> &experts, const Ahead &next);

}  // namespace wf
