#include "threads.h"

#include <algorithm>
#include <chrono>

#include "stragglers.h"

namespace wf {

namespace {

// How long a thread polls before it sleeps: longer than what lies between two calls of one decode step.
constexpr std::chrono::microseconds PATIENCE{300};
constexpr int SPINS = 4000;                 // polls of the thread that waits for the others before it yields
constexpr int GLANCE = 64;                  // polls between two looks at the clock
constexpr int64_t PIECE = 1024;             // bytes that a waiting thread asks for between two polls
constexpr int64_t MOST_EXPECTED = 8 << 20;  // bytes, which caches must hold until they are read

}  // namespace

Threads::Threads(int threads) : threads_(threads), seats_(threads) {
    try {
        for (int thread = 1; thread < threads; thread++) {
            workers_.emplace_back([this, thread] { work(thread); });
            pin(workers_.back(), seats_.of(thread));
        }
    } catch (...) {
        stop_ = true;
        { std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
        for (auto &worker : workers_) worker.join();
        throw;
    }
}

Threads::~Threads() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (auto &worker : workers_) worker.join();
}

void Threads::expect(const wf_range *ranges, int64_t count) {
    ranges_.store(0, std::memory_order_relaxed);
    int64_t bytes = 0, some = 0;
    for (; some < count && some < MOST_RANGES && bytes < MOST_EXPECTED; some++) {
        bytes += std::min(ranges[some].bytes, MOST_EXPECTED - bytes);
        expected_[some].store(static_cast<const char *>(ranges[some].at), std::memory_order_relaxed);
        ends_[some].store(bytes, std::memory_order_relaxed);
    }
    fetched_.store(0, std::memory_order_relaxed);
    ranges_.store(some, std::memory_order_release);
}

// Asks for a piece of what is expected. False when nothing is left.
bool Threads::fetch() {
    const int64_t ranges = ranges_.load(std::memory_order_acquire);
    if (ranges == 0 || fetched_.load(std::memory_order_relaxed) >= ends_[ranges - 1].load(std::memory_order_relaxed))
        return false;
    const int64_t from = fetched_.fetch_add(PIECE, std::memory_order_relaxed);
    int64_t begin = 0;
    for (int64_t i = 0; i < ranges; i++) {
        const int64_t end = ends_[i].load(std::memory_order_relaxed);
        if (from >= end) {
            begin = end;
            continue;
        }
        const uintptr_t at = uintptr_t(expected_[i].load(std::memory_order_relaxed)) + uintptr_t(from - begin);
        for (uintptr_t line = 0; line < PIECE; line += 64) __builtin_prefetch((const void *)(at + line), 0, 2);
        return true;
    }
    return false;
}

void Threads::run(Task task, void *context) {
    task_ = task;
    context_ = context;
    // nobody is at the task before. Sequentially consistent with `asleep_`: no sleeper is missed
    state_.store(((state_.load(std::memory_order_relaxed) | (NEXT - 1)) + 1));
    if (asleep_.load() > 0) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
        }
        wake_.notify_all();
    }
    task(context, 0);
    state_.fetch_or(CLOSED, std::memory_order_acquire);
    const auto waits = [&] { return (state_.load(std::memory_order_acquire) & WORKERS) > 0; };
    for (int spin = 0; spin < SPINS; spin++) {
        if (!waits()) return;
        if (!fetch()) pause_cpu();
    }
    Stragglers stragglers(workers_, seats_);
    while (waits()) {
        if (!stragglers.find()) std::this_thread::yield();
        else std::this_thread::sleep_for(std::chrono::microseconds(1));
    }
}

// True if this worker is now at the latest task, which the caller waits for. `done`: the task that it saw last.
bool Threads::joins(uint64_t &done) {
    uint64_t state = state_.load();
    for (;;) {
        done = state / NEXT;
        if (state & CLOSED) return false;
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
    }
}

void Threads::work(int thread) {
    uint64_t done = 0;
    const auto news = [&] { return state_.load() / NEXT != done || stop_.load(); };
    for (;;) {
        int polls = 0;
        const auto since = std::chrono::steady_clock::now();
        while (!news()) {
            if (fetch()) continue;
            if (++polls % GLANCE || std::chrono::steady_clock::now() - since < PATIENCE) {
                pause_cpu();
                continue;
            }
            std::unique_lock<std::mutex> lock(mutex_);
            asleep_.fetch_add(1);
            wake_.wait(lock, news);
            asleep_.fetch_sub(1);
        }
        if (stop_.load()) return;
        if (!joins(done)) continue;
        task_(context_, thread);
        state_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace wf
