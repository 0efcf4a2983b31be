// What the processor has. Compiled for every processor, since it is asked before anything else may run.
#include "int8.h"
#include "kernels.h"

namespace wf {

#if defined(WF_X86)
// F16C is older than AVX2 and clang has no name for it.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {  // x86-64-v4
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

bool has_avx512bf16() {
    return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

bool has_avx512vnni() {  // with VBMI
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#elif defined(WF_NEON)
bool has_neon() { return true; }  // ARMv8-A has it
#endif

}  // namespace wf
