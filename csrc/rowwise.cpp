#include "rowwise.h"

namespace wf {

WF_CLONES float sum_squares(const uint16_t *x, int64_t n, bool rounded) {
    float lanes[16] = {};
    int64_t k = 0;
    for (; k + 16 <= n; k += 16) {
        for (int l = 0; l < 16; l++) {
            const float square = bf16_to_float(x[k + l]) * bf16_to_float(x[k + l]);
            lanes[l] += rounded ? bf16_to_float(float_to_bf16(square)) : square;
        }
    }
    for (int l = 0; k < n; k++, l++) {
        const float square = bf16_to_float(x[k]) * bf16_to_float(x[k]);
        lanes[l] += rounded ? bf16_to_float(float_to_bf16(square)) : square;
    }
    float sum = 0;
    for (int l = 0; l < 16; l++) sum += lanes[l];
    return sum;
}

WF_CLONES void rms_norm(const uint16_t *x, const uint16_t *weight, int64_t n, float eps, uint16_t *out) {
    const float factor = 1 / std::sqrt(sum_squares(x, n) / float(n) + eps);
    for (int64_t k = 0; k < n; k++) out[k] = float_to_bf16(bf16_to_float(weight[k]) * (bf16_to_float(x[k]) * factor));
}

WF_CLONES void unit_rms_norm(uint16_t *x, int64_t n, float eps, bool released) {
    const float sum = sum_squares(x, n, released);
    float factor;
    if (released) {
        const float mean = bf16_to_float(float_to_bf16(sum / float(n)));
        factor = 1 / std::sqrt(bf16_to_float(float_to_bf16(mean + eps)));
        factor = bf16_to_float(float_to_bf16(factor));
    } else {
        factor = 1 / std::sqrt(sum / float(n) + eps);
    }
    for (int64_t k = 0; k < n; k++) x[k] = float_to_bf16(bf16_to_float(x[k]) * factor);
}

void rope_angles(int64_t position, const float *frequencies, int64_t pairs, float *table) {
    for (int64_t i = 0; i < pairs; i++) {
        const float angle = float(position) * frequencies[i];
        table[i] = std::cos(angle), table[pairs + i] = std::sin(angle);
    }
}

WF_CLONES void rotate(uint16_t *x, int64_t n, const float *table, int64_t pairs, bool inverse) {
    x += n - 2 * pairs;
    for (int64_t i = 0; i < pairs; i++) {
        const float cosine = table[i], sine = inverse ? -table[pairs + i] : table[pairs + i];
        const float even = bf16_to_float(x[2 * i]), odd = bf16_to_float(x[2 * i + 1]);
        x[2 * i] = float_to_bf16(even * cosine - odd * sine);
        x[2 * i + 1] = float_to_bf16(even * sine + odd * cosine);
    }
}

WF_CLONES void hadamard(uint16_t *x, int64_t n) {
    float values[1024];
    for (int64_t k = 0; k < n; k++) values[k] = bf16_to_float(x[k]);
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t first = 0; first < n; first += 2 * half)
            for (int64_t k = first; k < first + half; k++) {
                const float a = values[k], b = values[k + half];
                values[k] = a + b, values[k + half] = a - b;
            }
    const float factor = float(1 / std::sqrt(double(n)));
    for (int64_t k = 0; k < n; k++) x[k] = float_to_bf16(values[k] * factor);
}

WF_CLONES void add(const uint16_t *x, int64_t n, float *to) {
    for (int64_t k = 0; k < n; k++) to[k] += bf16_to_float(x[k]);
}

WF_CLONES void round(const float *x, int64_t n, uint16_t *to) {
    for (int64_t k = 0; k < n; k++) to[k] = float_to_bf16(x[k]);
}

}  // namespace wf
