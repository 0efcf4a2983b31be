// Activations through FP8 and back, as wavefold/quant/activation.py states it.
#pragma once

#include <cstdint>

namespace wf {

// One row of bfloat16, a scale for each `block` columns.
void fp8_sim(const uint16_t *x, int64_t columns, int64_t block, uint16_t *out);

}  // namespace wf
