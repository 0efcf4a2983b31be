#include "blocks.h"
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

void decode_rows(const ManyRows &many, const Matrix &m, int64_t first, int64_t end, uint16_t *out) {
    if (m.form == WF_F16) return decode_rows(m, first, end, out);
    for (int64_t n = first; n < end; n++)
        for (int64_t k = 0; k < m.columns; k += UNIT) {
            BlockUnit unit;
            const int64_t count = m.columns - k < UNIT ? m.columns - k : UNIT;
            many.take_apart(m, n, k, count, &unit);
            for (int64_t i = 0; i < count; i++)
                *out++ = float_to_bf16(unit.scales[i / 16] * float(unit.codes[i]) - unit.minima[i / 16]);
        }
}

}  // namespace wf
