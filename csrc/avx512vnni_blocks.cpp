// Few rows of x with GGUF's blocks in AVX512 with VNNI, VBMI and GFNI.
#include "avx512vnni_blocks.h"

#include "block_rows.h"

namespace wf {

const BlockKernels avx512vnni_blocks = block_kernels<Avx512Blocks>(has_avx512vnni, &avx2_blocks, avx512vnni_many);

}  // namespace wf
