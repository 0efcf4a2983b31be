#include "pool.h"

#include <cstdlib>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace wf {

namespace {

// Polls before a thread sleeps: a few tens of microseconds, the time between two calls of one decode step.
constexpr int SPINS = 4000;

inline void pause_cpu() {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Pins a worker to the core of its number among those that the process may use. A failure costs speed alone.
void pin(std::thread &thread, int number) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    int seen = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && seen++ == number) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
            return;
        }
    }
#else
    (void)thread, (void)number;
#endif
}

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
    try {
        for (int thread = 1; thread < threads; thread++) {
            workers_.emplace_back([this, thread] { work(thread); });
            pin(workers_.back(), thread);
        }
    } catch (...) {
        stop_ = true;
        { std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
        for (auto &worker : workers_) worker.join();
        throw;
    }
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (auto &worker : workers_) worker.join();
    for (void *scratch : scratch_) std::free(scratch);
}

void Pool::run(Task task, void *context) {
    if (threads_ == 1) {
        task(context, 0, 1);
        return;
    }
    task_ = task;
    context_ = context;
    running_.store(threads_ - 1, std::memory_order_relaxed);
    generation_.fetch_add(1);  // sequentially consistent with `asleep_`: no sleeper is missed
    if (asleep_.load() > 0) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
        }
        wake_.notify_all();
    }
    task(context, 0, threads_);
    for (int spin = 0; running_.load(std::memory_order_acquire) > 0; spin++) {
        if (spin < SPINS) pause_cpu();
        else std::this_thread::yield();
    }
}

void Pool::work(int thread) {
    uint64_t done = 0;
    for (;;) {
        int spin = 0;
        while (generation_.load() == done && !stop_.load()) {
            if (spin++ < SPINS) {
                pause_cpu();
                continue;
            }
            std::unique_lock<std::mutex> lock(mutex_);
            asleep_.fetch_add(1);
            wake_.wait(lock, [&] { return generation_.load() != done || stop_.load(); });
            asleep_.fetch_sub(1);
        }
        if (stop_.load()) return;
        done = generation_.load();
        task_(context_, thread, threads_);
        running_.fetch_sub(1, std::memory_order_release);
    }
}

void *Pool::scratch(int64_t bytes, int slot) {
    if (bytes > scratch_bytes_[slot]) {
        std::free(scratch_[slot]);
        scratch_bytes_[slot] = (bytes + 63) / 64 * 64;
        scratch_[slot] = std::aligned_alloc(64, static_cast<size_t>(scratch_bytes_[slot]));
        if (scratch_[slot] == nullptr) scratch_bytes_[slot] = 0;
    }
    return scratch_[slot];
}

}  // namespace wf
