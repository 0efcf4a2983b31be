// AVX512 without BF16, for Intel's servers from Skylake to Ice Lake.
#include "avx512.h"

#include "attention.h"
#include "blocks.h"
#include "int8.h"
#include "rows_simd.h"
#include "training.h"

namespace wf {
namespace {
constexpr AttentionKernels attention = attention_kernels<Avx512>();
}  // namespace

const TrainingKernels avx512_training = training_kernels<Avx512>();
const Kernels avx512_kernels =
    simd_kernels<Avx512>("avx512", has_avx512, &attention, &avx512_training, &avx512vnni_int8, &avx512vnni_blocks);

}  // namespace wf
