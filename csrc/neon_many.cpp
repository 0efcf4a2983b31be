// Many rows of x with GGUF's blocks in NEON.
#include "neon_blocks.h"

#include "block_gemm.h"

namespace wf {

const ManyRows neon_many = many_rows<NeonBlocks>();

}  // namespace wf
