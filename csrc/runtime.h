// What the calls of one holder share: threads, the kernels of an instruction set, whether rows depend on their batch,
// scratch, and the time spent inside. Nothing of it belongs to the process: two runtimes never meet.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "kernels.h"
#include "threads.h"

namespace wf {

class Runtime : public Threads {
  public:
    Runtime(int threads, const Kernels &kernels_, bool batch_invariant_, bool int8_, const wf_tuning &tuning_)
        : Threads(threads), kernels(kernels_), batch_invariant(batch_invariant_), int8(int8_), tuning(tuning_) {}
    ~Runtime();

    const Kernels &kernels;
    // Row i of a batch has the same bytes whatever the batch.
    const bool batch_invariant;
    // Activations meet FP4 and FP8 matrices in int8 (products_int8.h), and GGUF's blocks (blocks.h).
    const bool int8;
    const wf_tuning tuning;

    // Kernels for products of so many rows.
    const Kernels &kernels_for(int64_t rows) const;
    const AttentionKernels &attention() const { return attention_of(kernels); }
    static const AttentionKernels &attention_of(const Kernels &kernels);
    const Int8Kernels &int8_kernels() const;
    const BlockKernels &block_kernels() const;
    const TrainingKernels &training() const { return *kernels.training; }

    // Grows on demand and lives as long as the runtime, 64-byte aligned. Null when memory is short. What a call keeps
    // while it calls others lies in slot 1, what a pass keeps from call to call in slot 2, a list of tasks in slot 3.
    void *scratch(int64_t bytes, int slot = 0);

    std::atomic<int64_t> holders{1};
    std::atomic<int64_t> inside_ns{0};

  private:
    friend class Call;
    std::mutex calls_;
    void *scratch_[4] = {};
    int64_t scratch_bytes_[4] = {};
};

// One call at a time: a second caller waits. The time that it holds the runtime is counted.
class Call {
  public:
    explicit Call(Runtime &runtime) : runtime_(runtime), lock_(runtime.calls_) {}
    ~Call() {
        const auto spent = std::chrono::steady_clock::now() - began_;
        runtime_.inside_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;

  private:
    Runtime &runtime_;
    const std::lock_guard<std::mutex> lock_;
    const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

// The best kernels that this processor can run, or those of a name; null for a name that is unknown or that it lacks.
const Kernels *kernels_named(const char *name);

}  // namespace wf

struct wf_runtime : wf::Runtime {
    using wf::Runtime::Runtime;
};
