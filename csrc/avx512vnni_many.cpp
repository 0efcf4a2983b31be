// Many rows of x with GGUF's blocks in AVX512 with VNNI, VBMI and GFNI.
#include "avx512vnni_blocks.h"

#include "block_gemm.h"

namespace wf {

const ManyRows avx512vnni_many = many_rows<Avx512Blocks>();

}  // namespace wf
