// The kernels for AVX2 with FMA and F16C.
#include "avx2.h"

#include "attention.h"
#include "blocks.h"
#include "int8_gemm.h"
#include "rows_simd.h"
#include "training.h"

namespace wf {
namespace {

constexpr AttentionKernels attention = attention_kernels<Avx2>();

}  // namespace

const TrainingKernels avx2_training = training_kernels<Avx2>();
const Int8Kernels avx2_int8 = int8_kernels<Avx2Int8>(has_avx2, &generic_int8);
const Kernels avx2_kernels = simd_kernels<Avx2>("avx2", has_avx2, &attention, &avx2_training, &avx2_int8, &avx2_blocks);

}  // namespace wf
