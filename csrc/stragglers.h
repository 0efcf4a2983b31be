// Workers that lost their processor to another process amid an item, while the caller waits for it.
#pragma once

#include <thread>
#include <vector>

#include "processors.h"

namespace wf {

inline void pause_cpu() {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Pins a worker to a processor; -1 for none. A failure costs speed alone.
void pin(std::thread &worker, int processor);

// They get the caller's processor, which is to sleep until they are done, and their own again when this object goes. Without it
// the caller waits for a time slice of the other process, which lasts milliseconds.
class Stragglers {
  public:
    // Worker i is thread i + 1 of `seats`.
    Stragglers(std::vector<std::thread> &workers, const Seats &seats) : workers_(workers), seats_(seats) {}
    ~Stragglers();
    Stragglers(const Stragglers &) = delete;
    Stragglers &operator=(const Stragglers &) = delete;

    // True if some were found. Workers that sleep between calls may be among them.
    bool find();

  private:
    std::vector<std::thread> &workers_;
    const Seats &seats_;
    std::vector<size_t> moved_;
};

}  // namespace wf
