// Few rows of x with GGUF's blocks in AVX2.
#include "avx2_blocks.h"

#include "block_rows.h"

namespace wf {

const BlockKernels avx2_blocks = block_kernels<Avx2Blocks>(has_avx2, &generic_blocks, avx2_many);

}  // namespace wf
