#include "stragglers.h"

#include <cstdint>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif

namespace wf {

#if defined(__linux__)

namespace {

constexpr int WATCHED = 500;  // polls in which a thread that has a processor uses some of its time

// Nanoseconds that each worker has run.
std::vector<int64_t> times(std::vector<std::thread> &workers) {
    std::vector<int64_t> all;
    for (std::thread &worker : workers) {
        clockid_t clock;
        timespec time = {};
        if (pthread_getcpuclockid(worker.native_handle(), &clock) == 0) clock_gettime(clock, &time);
        all.push_back(time.tv_sec * int64_t(1000000000) + time.tv_nsec);
    }
    return all;
}

}  // namespace

void pin(std::thread &worker, int processor) {
    if (processor < 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    pthread_setaffinity_np(worker.native_handle(), sizeof one, &one);
}

bool Stragglers::find() {
    if (!moved_.empty()) return true;
    const std::vector<int64_t> before = times(workers_);
    for (int i = 0; i < WATCHED; i++) pause_cpu();
    const std::vector<int64_t> after = times(workers_);
    const int here = sched_getcpu();
    for (size_t worker = 0; worker < workers_.size(); worker++) {
        if (seats_.of(int(worker) + 1) < 0 || before[worker] != after[worker]) continue;
        pin(workers_[worker], here);
        moved_.push_back(worker);
    }
    return !moved_.empty();
}

#else

void pin(std::thread &, int) {}

bool Stragglers::find() { return false; }

#endif

Stragglers::~Stragglers() {
    for (const size_t worker : moved_) pin(workers_[worker], seats_.of(int(worker) + 1));
}

}  // namespace wf
