// What an instruction set provides for attention, indexing and products of many rows; the same sources compiled for each
// (attend.h, index.h, gemm.h).
#pragma once

#include <algorithm>

#include "attend.h"
#include "gemm_float.h"
#include "gemm_pairs.h"
#include "gemm_quads.h"
#include "index.h"

namespace wf {

struct AttentionKernels {
    int64_t (*attend_bytes)(const Attend &);
    void (*attend)(const Attend &, const AttendTask &, uint8_t *scratch);
    void (*join)(const Attend &, int64_t query, int64_t head, uint8_t *scratch);
    int64_t (*index_bytes)(const Index &);
    void (*index)(const Index &, int64_t begin, int64_t stop, int64_t first, int64_t end, Best *, uint8_t *scratch);
    int64_t (*gemm_bytes)();
    void (*gemm)(const GemmTask &, uint8_t *scratch);
};

template <class S>
constexpr AttentionKernels attention_kernels() {
    using Narrow = std::conditional_t<S::MULTIPLIES_QUADS, QuadGemm<S>, PairGemm<S>>;
    return {
        [](const Attend &job) { return AttendKernel<S>::bytes(job); },
        [](const Attend &job, const AttendTask &task, uint8_t *scratch) { AttendKernel<S>(job, scratch).run(task); },
        [](const Attend &job, int64_t query, int64_t head, uint8_t *scratch) {
            AttendKernel<S>(job, scratch).join_kept(query, head);
        },
        [](const Index &job) { return IndexKernel<S>::bytes(job); },
        [](const Index &job, int64_t begin, int64_t stop, int64_t first, int64_t end, Best *best, uint8_t *scratch) {
            IndexKernel<S>(job, scratch).run(begin, stop, first, end, best);
        },
        [] { return std::max(FloatGemm<S>::bytes(), S::MULTIPLIES_PAIRS ? Narrow::bytes() : 0); },
        [](const GemmTask &task, uint8_t *scratch) {
            if constexpr (S::MULTIPLIES_PAIRS)
                if (task.weight->form != WF_FP32 && task.weight->form != WF_F16) return Narrow::run(task, scratch);
            FloatGemm<S>::run(task, scratch);
        },
    };
}

extern const AttentionKernels generic_attention;
#if defined(WF_X86)
extern const AttentionKernels avx512bf16_attention;
#endif

class Runtime;

// All jobs as one list of tasks, on the calling thread's runtime; a job's results do not depend on the others. False when
// there is no memory for scratch.
bool attend(Runtime &runtime, const Attend *jobs, int64_t count, const AttentionKernels &kernels);
bool index(Runtime &runtime, const Index *jobs, int64_t count, const AttentionKernels &kernels);

}  // namespace wf
