// Int8 products in AVX512 with VNNI and VBMI, for Zen since 4 and Intel's servers since Ice Lake.
#include "avx512vnni.h"
#include "int8_gemm.h"

namespace wf {

const Int8Kernels avx512vnni_int8 = int8_kernels<Avx512Vnni>(has_avx512vnni, &avx2_int8);

}  // namespace wf
