#include "gguf_values.h"

namespace wf {

void decode_rows(const Matrix &m, int64_t first, int64_t end, uint16_t *out) {
    float values[256];
    const int64_t each = block_size(m.form).values;
    for (int64_t n = first; n < end; n++)
        for (int64_t k = 0; k < m.columns; k += each) {
            values_of(m, n, k, each, values);
            for (int64_t i = 0; i < each; i++) *out++ = float_to_bf16(values[i]);
        }
}

}  // namespace wf
