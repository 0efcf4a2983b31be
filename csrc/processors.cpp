#include "processors.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "wavefold.h"

#if defined(__linux__)
#include <dirent.h>
#include <sched.h>
#endif

namespace wf {
namespace {

constexpr char TOPOLOGY[] = "/sys/devices/system/cpu";

// Processors that this process may use: those of any of its threads. OMP_PROC_BIND leaves the calling one a single
// processor, and each of OpenMP's others another.
std::vector<int> allowed() {
    std::vector<int> processors;
#if defined(__linux__)
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return processors;
    if (DIR *const tasks = opendir("/proc/self/task")) {
        while (const dirent *const task = readdir(tasks))
            if (const int id = std::atoi(task->d_name); id > 0 && sched_getaffinity(id, sizeof one, &one) == 0)
                CPU_OR(&all, &all, &one);
        closedir(tasks);
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) processors.push_back(cpu);
#endif
    return processors;
}

// The process's runtimes share it. It decides where threads run, never what they compute.
struct Taken {
    std::mutex mutex;
    std::map<int, int> seats;  // by processor
};

Taken &taken() {
    static Taken *const all = new Taken;  // never destroyed: runtimes may outlive static objects
    return *all;
}

}  // namespace

int order_by_core(const char *folder, std::vector<int> &processors) {
    std::map<std::string, int> seen;
    std::vector<std::pair<int, int>> ranked;  // how many of its core came before, the processor
    int cores = 0;
    for (const int processor : processors) {
        const std::string name = "cpu" + std::to_string(processor);
        std::string siblings;
        std::ifstream file(std::string(folder) + "/" + name + "/topology/thread_siblings_list");
        if (!std::getline(file, siblings) || siblings.empty()) siblings = name;
        const int rank = seen[siblings]++;
        cores += rank == 0;
        ranked.emplace_back(rank, processor);
    }
    std::stable_sort(ranked.begin(), ranked.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
    for (size_t i = 0; i < ranked.size(); i++) processors[i] = ranked[i].second;
    return cores;
}

Seats::Seats(int threads) {
    std::vector<int> processors = allowed();
    if (threads < 2 || processors.empty()) return;
    order_by_core(TOPOLOGY, processors);
    const std::lock_guard<std::mutex> lock(taken().mutex);
    for (int thread = 0; thread < threads; thread++) {
        const auto fewest = std::min_element(processors.begin(), processors.end(),
                                             [](int a, int b) { return taken().seats[a] < taken().seats[b]; });
        taken().seats[*fewest]++;
        taken_.push_back(*fewest);
    }
}

Seats::~Seats() {
    const std::lock_guard<std::mutex> lock(taken().mutex);
    for (const int processor : taken_) taken().seats[processor]--;
}

}  // namespace wf

extern "C" int32_t wf_order_processors(const char *folder, int32_t *processors, int32_t count) {
    if (!processors || count < 0) return 0;
    std::vector<int> order(processors, processors + count);
    const int cores = wf::order_by_core(folder ? folder : wf::TOPOLOGY, order);
    std::copy(order.begin(), order.end(), processors);
    return cores;
}
