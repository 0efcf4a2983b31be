// Few rows of x with GGUF's blocks in NEON.
#include "neon_blocks.h"

#include "block_rows.h"

namespace wf {

const BlockKernels neon_blocks = block_kernels<NeonBlocks>(has_neon, &generic_blocks, neon_many);

}  // namespace wf
