#include "runtime.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "attention.h"
#include "blocks.h"
#include "int8.h"

namespace {

using wf::Kernels;

const Kernels *const all_kernels[] = {
#if defined(WF_X86)
    &wf::avx512bf16_kernels,
    &wf::avx512_kernels,
    &wf::avx2_kernels,
#elif defined(WF_NEON)
    &wf::neonbf16_kernels,
    &wf::neon_kernels,
#endif
    &wf::generic_kernels,
};

constexpr int32_t MOST_THREADS = 1024;

// Measured on Zen 4; what Intel's servers want is as others reported it (docs/processors.md).
wf_tuning usual_tuning(const Kernels &kernels) {
    wf_tuning tuning = {WF_HINT_L2, 8192, 24, 0, WF_HINT_L2};
#if defined(WF_X86)
    // a core's products of bfloat16 are half as fast there as its float32 multiply-adds
    if (kernels.in_float && __builtin_cpu_is("intel"))
        tuning.hint = tuning.plain_hint = WF_HINT_L3, tuning.float_rows = 4;
    // Zen 3 and Zen 4 are one family: the first has no AVX512, and likes what the second does not (docs/processors.md)
    if (__builtin_cpu_is("amdfam19h") && __builtin_cpu_supports("avx512f")) tuning.plain_hint = WF_HINT_NONE;
    else if (__builtin_cpu_is("amdfam19h")) tuning.plain_hint = WF_HINT_L1, tuning.few_rows = 16;
#endif
    if (&kernels == &wf::generic_kernels) tuning.hint = tuning.plain_hint = WF_HINT_NONE;
    return tuning;
}

bool is_hint(int32_t hint) { return hint >= WF_HINT_NONE && hint <= WF_HINT_L3; }

bool sound(const wf_tuning &tuning) {
    return is_hint(tuning.hint) && is_hint(tuning.plain_hint) && tuning.ahead >= 0 && tuning.ahead <= 1 << 20 &&
           tuning.few_rows >= 1 && tuning.few_rows <= 256 && tuning.float_rows >= 0 && tuning.float_rows <= 1024;
}

}  // namespace

namespace wf {

Runtime::~Runtime() {
    for (void *scratch : scratch_) std::free(scratch);
}

const AttentionKernels &Runtime::attention_of(const Kernels &kernels) {
    return kernels.attention ? *kernels.attention : generic_attention;
}

const Kernels &Runtime::kernels_for(int64_t rows) const {
    const int64_t from = batch_invariant && tuning.float_rows > 1 ? 0 : tuning.float_rows;
    return kernels.in_float && from > 0 && rows >= from ? *kernels.in_float : kernels;
}

const Int8Kernels &Runtime::int8_kernels() const {
    const Int8Kernels *found = kernels.int8;
    while (!found->supported()) found = found->otherwise;
    return *found;
}

const BlockKernels &Runtime::block_kernels() const {
    const BlockKernels *found = kernels.blocks;
    while (!found->supported()) found = found->otherwise;
    return *found;
}

void *Runtime::scratch(int64_t bytes, int slot) {
    if (bytes > scratch_bytes_[slot]) {
        std::free(scratch_[slot]);
        scratch_bytes_[slot] = (bytes + 63) / 64 * 64;
        scratch_[slot] = std::aligned_alloc(64, static_cast<size_t>(scratch_bytes_[slot]));
        if (scratch_[slot] == nullptr) scratch_bytes_[slot] = 0;
    }
    return scratch_[slot];
}

const Kernels *kernels_named(const char *name) {
    for (const Kernels *kernels : all_kernels)
        if (kernels->supported() && (!name || std::strcmp(kernels->name, name) == 0)) return kernels;
    return nullptr;
}

}  // namespace wf

extern "C" {

const char *wf_isas(void) {
    static const struct Names {
        char text[256] = {};
        Names() {
            for (const Kernels *kernels : all_kernels) {
                if (!kernels->supported()) continue;
                if (text[0]) std::strcat(text, " ");
                std::strcat(text, kernels->name);
            }
        }
    } names;
    return names.text;
}

int wf_usual_tuning(const char *isa, wf_tuning *tuning) {
    if (!tuning) return WF_ERROR_NULL;
    const Kernels *kernels = wf::kernels_named(isa);
    if (!kernels) return WF_ERROR_ISA;
    *tuning = usual_tuning(*kernels);
    return WF_OK;
}

int wf_runtime_create(int32_t threads, const char *isa, int32_t batch_invariant, int32_t activations,
                      const wf_tuning *tuning, wf_runtime **runtime) {
    if (!runtime) return WF_ERROR_NULL;
    *runtime = nullptr;
    if (threads < 1 || threads > MOST_THREADS) return WF_ERROR_THREADS;
    const Kernels *kernels = wf::kernels_named(isa);
    if (!kernels) return WF_ERROR_ISA;
    if (activations != WF_ACTIVATIONS_BF16 && activations != WF_ACTIVATIONS_INT8) return WF_ERROR_FORM;
    const wf_tuning usual = tuning ? *tuning : usual_tuning(*kernels);
    if (!sound(usual)) return WF_ERROR_TUNING;
    try {
        *runtime = new wf_runtime(threads, *kernels, batch_invariant != 0, activations == WF_ACTIVATIONS_INT8, usual);
    } catch (const std::system_error &) {
        return WF_ERROR_THREADS;
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
    return WF_OK;
}

void wf_runtime_share(wf_runtime *runtime) {
    if (runtime) runtime->holders.fetch_add(1, std::memory_order_relaxed);
}

void wf_runtime_release(wf_runtime *runtime) {
    if (runtime && runtime->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete runtime;
}

const char *wf_runtime_isa(const wf_runtime *runtime) { return runtime ? runtime->kernels.name : ""; }

int64_t wf_runtime_inside_ns(const wf_runtime *runtime) { return runtime ? runtime->inside_ns.load() : 0; }

}  // extern "C"
