// The processors that threads are pinned to: one of each physical core first, those that no other runtime took first.
#pragma once

#include <cstddef>
#include <vector>

namespace wf {

// Sorts `processors` so that one of each physical core comes first, then the second ones, and so on. Two are one core's where
// FOLDER/cpuN/topology/thread_siblings_list says so; one without that file is a core of its own. Returns the number of cores.
int order_by_core(const char *folder, std::vector<int> &processors);

// A seat for each thread of a runtime, the caller's first: runtimes that live at the same time get different processors as long
// as there are any. The caller runs where it likes; its seat keeps a processor free for it. Empty where no thread can be pinned.
class Seats {
  public:
    explicit Seats(int threads);
    ~Seats();
    Seats(const Seats &) = delete;
    Seats &operator=(const Seats &) = delete;

    // The processor of a thread, -1 for none.
    int of(int thread) const { return size_t(thread) < taken_.size() ? taken_[size_t(thread)] : -1; }

  private:
    std::vector<int> taken_;
};

}  // namespace wf
