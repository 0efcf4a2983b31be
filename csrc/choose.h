// The choice of a token from a row of logits: penalties, biases, a mask, temperature, filters, a random number. What
// wavefold/engine/choosing.py says in torch.
#pragma once

#include <cstdint>

#include "wavefold.h"

namespace wf {

// Scratch of one thread for rows of `vocabulary` logits.
class Space {
  public:
    static constexpr int64_t BUCKETS = 4096;

    static int64_t bytes(int64_t vocabulary);
    Space(uint8_t *scratch, int64_t vocabulary);

    double *weights, *masses;  // of a token; of a bucket
    int64_t *counts;           // tokens of a bucket
    float *row;
    int32_t *ids;       // of one bucket, in order; before that, how often tokens came
    uint16_t *buckets;  // of a token
};

// Returns the token, or -1 for a row that is NaN or infinite, or that allows no token.
int64_t choose(const float *logits, int64_t vocabulary, const wf_choice &choice, Space &space);

}  // namespace wf
