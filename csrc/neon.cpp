// NEON, which every ARMv8-A processor has.
#include "neon.h"

#include "attention.h"
#include "blocks.h"
#include "int8_gemm.h"
#include "training.h"

namespace wf {
namespace {
constexpr AttentionKernels attention = attention_kernels<Neon>();
}  // namespace

const TrainingKernels neon_training = training_kernels<Neon>();
const Int8Kernels neon_int8 = int8_kernels<NeonInt8>(has_neon, &generic_int8);
const Kernels neon_kernels =
    simd_kernels<Neon>("neon", has_neon, &attention, &neon_training, &neon_dot_int8, &neon_blocks);

}  // namespace wf
