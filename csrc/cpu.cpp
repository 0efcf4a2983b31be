// What the processor has. Compiled for every processor, since it is asked before anything else may run.
#include "int8.h"
#include "kernels.h"

#if defined(WF_X86)
#include <cpuid.h>
#elif defined(WF_NEON) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(WF_NEON) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace wf {

#if defined(WF_X86)
namespace {
bool has_f16c() {  // clang and older compilers have no name for it; a virtual machine may hide it alone
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
}  // namespace

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool has_avx512() {  // x86-64-v4
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

bool has_avx512bf16() {
    return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

bool has_avx512vnni() {  // with VBMI and GFNI, as all of AMD's and of Intel's since Ice Lake
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("gfni");
}
#elif defined(WF_NEON)
#if defined(__linux__)
namespace {
constexpr unsigned long DOT = 1ul << 20, I8MM = 1ul << 13, BF16 = 1ul << 14;  // Linux's HWCAP_ASIMDDP, HWCAP2_...
bool has2(unsigned long bit) { return getauxval(AT_HWCAP2) & bit; }
}  // namespace
bool has_neon_dot() { return getauxval(AT_HWCAP) & DOT; }
bool has_neon_i8mm() { return has_neon_dot() && has2(I8MM); }
bool has_neon_bf16() { return has_neon_dot() && has2(BF16); }
#elif defined(__APPLE__)
namespace {
bool has(const char *name) {
    int value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value;
}
}  // namespace
bool has_neon_dot() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_neon_i8mm() { return has_neon_dot() && has("hw.optional.arm.FEAT_I8MM"); }
bool has_neon_bf16() { return has_neon_dot() && has("hw.optional.arm.FEAT_BF16"); }
#else  // no way to ask
bool has_neon_dot() { return false; }
bool has_neon_i8mm() { return false; }
bool has_neon_bf16() { return false; }
#endif
bool has_neon() { return true; }  // ARMv8-A has it
#endif

}  // namespace wf
