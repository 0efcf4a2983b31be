// Many rows of x with GGUF's blocks in AVX2.
#include "avx2_blocks.h"

#include "block_gemm.h"

namespace wf {

const ManyRows avx2_many = many_rows<Avx2Blocks>();

}  // namespace wf
