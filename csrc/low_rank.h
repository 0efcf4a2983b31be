// Low-rank additions to products, y += scale B (A x), each row of x by the adapter of its sequence (wf_adapter).
#pragma once

#include <vector>

#include "block.h"
#include "runtime.h"

namespace wf {

constexpr int64_t MOST_RANK = 512;

// The checked form of a wf_low_rank beside a matrix [rows, columns]. Rank 0: nothing is added.
struct LowRank {
    int form;
    int64_t rank, columns, rows;
    float scale;
    const uint8_t *down, *up;  // [rank, columns], [rank, rows]
};

// An adapter in one layer.
struct Adapter {
    LowRank wq_a, wq_b, wkv, wo_b, w1, w2, w3;
    const wf_low_rank *experts;  // null, or w1, w2 and w3 of each routed expert
};

// Rows first .. first + rows of a pass, those of a span, go through `adapter`.
struct Adapted {
    int64_t first, rows;
    Adapter adapter;
    int64_t span;
};

// y bfloat16 [by->rows] += by x, x bfloat16 [by->columns], in float32, rounded once more.
struct Addition {
    const LowRank *by;
    const uint16_t *x;
    uint16_t *y;
};

// WF_OK and the checked form, or an error code.
int check_low_rank(const wf_low_rank &given, const Matrix &matrix, LowRank &checked);
// The spans that have adapters, with the parts beside the block's attention in layer `layer`.
int check_adapted(const wf_span *spans, int64_t count, int64_t layer, const Block &block,
                  std::vector<Adapted> &adapted);
// The parts beside its shared expert.
int check_shared_adapter(const wf_adapter &given, const Expert &shared, Adapter &adapter);
// The parts beside the routed ones of `experts`, for all of `adapted`.
int check_expert_adapters(const std::vector<Adapted> &adapted, const std::vector<Expert> &experts);

// The part beside w1 (0), w2 (1) or w3 (2) of an expert, checked before.
LowRank beside(const Adapter &adapter, const Expert &expert, int which);

// Additions of one matrix's neighbouring rows stand next to each other. A row's bits do not depend on the others.
void add_low_rank(Runtime &runtime, const std::vector<Addition> &additions);

}  // namespace wf
