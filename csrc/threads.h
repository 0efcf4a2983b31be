// Threads that wait for work: one call runs a function on all of them and returns when all are done.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "processors.h"
#include "wavefold.h"

namespace wf {

// `task(context, thread)` takes items until none is left.
using Task = void (*)(void *context, int thread);

class Threads {
  public:
    static constexpr int64_t MOST_RANGES = 16;  // that are expected; of more, the first

    explicit Threads(int threads);
    ~Threads();
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

    int threads() const { return threads_; }

    // `body(item, thread)` for items 0 .. count, `grain` at a time taken by whichever thread is free.
    template <class Body>
    void each(int64_t count, const Body &body, int64_t grain = 1) {
        if (count <= grain || threads_ == 1) {
            for (int64_t item = 0; item < count; item++) body(item, 0);
            return;
        }
        struct Job {
            const Body &body;
            const int64_t count, grain;
            std::atomic<int64_t> next;
        } job{body, count, grain, {0}};
        run(
            [](void *context, int thread) {
                Job &job = *static_cast<Job *>(context);
                for (int64_t item; (item = job.next.fetch_add(job.grain, std::memory_order_relaxed)) < job.count;) {
                    for (int64_t end = item + job.grain < job.count ? item + job.grain : job.count; item < end; item++)
                        job.body(item, thread);
                }
            },
            &job);
    }

    // What will be read next, in this order: from now on threads that wait, for work or for each other, ask for it, so that
    // memory is not idle while one thread does what cannot be shared. Takes the place of what was expected before.
    void expect(const wf_range *ranges, int64_t count);

  private:
    // Runs a task on the caller and on each worker that comes before the caller is done.
    void run(Task task, void *context);
    void work(int thread);
    bool fetch();
    bool joins(uint64_t &done);

    static constexpr uint64_t CLOSED = 1 << 16, NEXT = 1 << 17, WORKERS = CLOSED - 1;

    const int threads_;
    const Seats seats_;
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> state_{CLOSED};  // of the latest task: its number, whether it is closed, who is at it
    std::atomic<int> asleep_{0};
    std::atomic<bool> stop_{false};
    // Waiting threads read these while they are replaced. What they then ask for is of no use, and does no harm.
    std::atomic<const char *> expected_[MOST_RANGES] = {};
    std::atomic<int64_t> ends_[MOST_RANGES] = {};  // bytes of the ranges up to the end of this one
    std::atomic<int64_t> ranges_{0}, fetched_{0};
    Task task_ = nullptr;
    void *context_ = nullptr;
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
