// The kernels in plain C++, for processors without a better table. 32 columns are decoded, then multiplied.
#include <cstring>

#include "attention.h"
#include "blocks.h"
#include "gguf.h"
#include "int8.h"
#include "training.h"
#include "kernels.h"

namespace wf {
namespace {

constexpr int BLOCK = 32;
constexpr int LANES = 8;

bool supported() { return true; }

int64_t arranged_bytes(const Matrix &m, int64_t x_rows) { return x_rows * m.chunks() * CHUNK * 4; }

void arrange(const Matrix &m, const uint16_t *x, int64_t x_rows, void *arranged) {
    float *out = static_cast<float *>(arranged);
    for (int64_t c = 0; c < m.chunks(); c++)
        for (int64_t r = 0; r < x_rows; r++)
            for (int64_t k = c * CHUNK; k < (c + 1) * CHUNK; k++)
                *out++ = k < m.columns ? bf16_to_float(x[r * m.columns + k]) : 0;
}

void rows(const Matrix &m, const Feed &, const void *arranged, int x_rows, int64_t first, int64_t end, float *y,
          int64_t stride) {
    const float *x = static_cast<const float *>(arranged);
    for (int64_t n = first; n < end; n++) {
        float total[MAX_ROWS][LANES] = {};
        for (int64_t k = 0; k < m.columns; k += BLOCK) {
            float w[BLOCK] = {};
            const int64_t count = m.columns - k < BLOCK ? m.columns - k : BLOCK;
            for (int64_t j = 0; j < count; j++) w[j] = value_at(m, n, k + j);
            const float scale = scale_at(m, n, k);
            for (int r = 0; r < x_rows; r++) {
                const float *values = x + (k / CHUNK * x_rows + r) * CHUNK + k % CHUNK;
                float part[LANES] = {};
                for (int j = 0; j < BLOCK; j += LANES)
                    for (int l = 0; l < LANES; l++) part[l] += w[j + l] * values[j + l];
                for (int l = 0; l < LANES; l++) total[r][l] += part[l] * scale;
            }
        }
        for (int r = 0; r < x_rows; r++) {
            float sum = 0;
            for (int l = 0; l < LANES; l++) sum += total[r][l];
            y[r * stride + n] = sum;
        }
    }
}

void decode(const Matrix &m, int64_t first, int64_t end, uint16_t *out) {
    if (is_blocks(m.form)) return decode_rows(m, first, end, out);
    for (int64_t n = first; n < end; n++)
        for (int64_t k = 0; k < m.columns; k++)
            out[(n - first) * m.columns + k] = float_to_bf16(value_at(m, n, k) * scale_at(m, n, k));
}

}  // namespace

const Kernels generic_kernels = {"generic",         supported, MAX_ROWS,      arrange,
                                 arranged_bytes,    rows,      decode,        &generic_attention,
                                 &generic_training, nullptr,   &generic_int8, &generic_blocks};

}  // namespace wf
