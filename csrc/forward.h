// The end of a pass: the streams collapse into one.
#pragma once

#include "runtime.h"

namespace wf {

struct Head {
    Matrix fn;  // [J, J hidden]
    const float *base, *scale;
    float eps, norm_eps;
};

// x bfloat16 [tokens, J, hidden] -> out [tokens, hidden]; mixes [2, tokens, J] is scratch. False when memory is short.
bool collapse(Runtime &runtime, const Head &head, const uint16_t *x, int64_t tokens, int64_t streams, int64_t hidden,
              float *mixes, uint16_t *out);

}  // namespace wf
