// Many rows of x with GGUF's blocks in plain C++.
#include "block_gemm.h"

namespace wf {

const ManyRows generic_many = many_rows<BlockVector<Int8Vector<Vector<4>>>>();

}  // namespace wf
