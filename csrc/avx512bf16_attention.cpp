// Attention, indexing and training for AVX512-BF16.
#include "attention.h"
#include "avx512.h"
#include "training.h"

namespace wf {
namespace {

struct Avx512Bf16 : Avx512 {
    static constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;
    static constexpr bool MULTIPLIES_PAIRS = true;

    static WF_INLINE F dot(F sum, U a, U b) { return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
    static WF_INLINE void narrow(uint16_t *to, F value) {
        _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
    }
};

}  // namespace

const AttentionKernels avx512bf16_attention = attention_kernels<Avx512Bf16>();
const TrainingKernels avx512bf16_training = training_kernels<Avx512Bf16>();

}  // namespace wf
