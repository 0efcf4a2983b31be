// Threads that wait for work: one call runs a function on all of them and returns when all are done.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace wf {

// `run(context, thread, threads)` is called once on each thread.
using Task = void (*)(void *context, int thread, int threads);

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int threads() const { return threads_; }
    void run(Task task, void *context);

    // Scratch that lives as long as the pool and grows on demand, 64-byte aligned. Null when memory is short.
    void *scratch(int64_t bytes);

    // One call at a time; a second caller waits.
    std::mutex calls;

  private:
    void work(int thread);

    const int threads_;
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int> running_{0};
    std::atomic<int> asleep_{0};
    std::atomic<bool> stop_{false};
    Task task_ = nullptr;
    void *context_ = nullptr;
    void *scratch_ = nullptr;
    int64_t scratch_bytes_ = 0;
};

// The share [first, end) of `count` items that a thread takes, in multiples of `grain`.
inline void share(int64_t count, int64_t grain, int thread, int threads, int64_t &first, int64_t &end) {
    const int64_t units = (count + grain - 1) / grain;
    first = units * thread / threads * grain;
    end = units * (thread + 1) / threads * grain;
    if (end > count) end = count;
    if (first > count) first = count;
}

}  // namespace wf
