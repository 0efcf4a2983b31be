// The attention half of a block for new tokens of some sequences, and the choice of their experts.
#pragma once

#include "block.h"
#include "low_rank.h"
#include "products.h"

namespace wf {

// What the halves of a pass's blocks give each other, for all tokens: see wf_block_attention.
struct Passed {
    const int64_t *ids;
    const uint16_t *streams;
    uint16_t *mixed, *h;
    float *post, *comb, *route;
    int64_t *chosen;
    const std::vector<Adapted> *adapted;
};

// streams -> mixed, h, post, comb, route, chosen; new entries to the caches. False when there is no memory for scratch.
bool attention_half(Runtime &runtime, const Block &block, const Span *spans, int64_t num_spans, int64_t tokens,
                    const Passed &pass, const Ahead &next);

// Where tokens choose experts by their ids: WF_OK if the rows of the table that are used name experts.
int check_table(const wf_block &block, const int64_t *ids, int64_t tokens);

}  // namespace wf
