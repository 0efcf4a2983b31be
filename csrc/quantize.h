// Activations in FP8 and FP4, as wavefold/quant/activation.py states it. A value that is not finite makes its block NaN.
#pragma once

#include <cstdint>

namespace wf {

// One row of bfloat16 through e4m3 and back, a scale for each `block` columns.
void fp8_sim(const uint16_t *x, int64_t columns, int64_t block, uint16_t *out);

// In place through e2m1 and back.
void fp4_sim(uint16_t *x, int64_t columns, int64_t block);

// e4m3 codes [columns] and e8m0 scales; e2m1 codes [columns / 2], the low nibble first, and e8m0 scales.
void fp8_encode(const uint16_t *x, int64_t columns, int64_t block, uint8_t *codes, uint8_t *scales);
void fp4_encode(const uint16_t *x, int64_t columns, int64_t block, uint8_t *codes, uint8_t *scales);

// Weights [rows, columns] through a form, WF_FP4, WF_FP8 or WF_BF16, and back to bfloat16 (quant/blocks.py). Of FP4, `low` and
// `high` become the least scale but those of blocks of zeros (255: there is none) and the largest.
void round_weights(int form, const float *weights, int64_t rows, int64_t columns, uint16_t *out, uint8_t &low,
                   uint8_t &high);

}  // namespace wf
