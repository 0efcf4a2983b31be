// Several threads on shared runtimes, for the thread sanitizer: products on two runtimes with different settings, while
// other threads take shares of them, let go, and make new ones.
//
//     hammer [SECONDS]     exit code 0, or a message and 1
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "wavefold.h"

namespace {

constexpr int64_t ROWS = 96, COLUMNS = 256, TOKENS = 40;

// What all threads read: a weight in bfloat16 and rows of x.
struct Work {
    std::vector<uint16_t> weight, x;
    wf_matrix matrix;

    Work() : weight(ROWS * COLUMNS), x(TOKENS * COLUMNS) {
        std::mt19937 random(1);
        for (uint16_t &value : weight) value = uint16_t((random() & 0x8000) | (0x3E00 + random() % 0x200));
        for (uint16_t &value : x) value = uint16_t((random() & 0x8000) | (0x3E00 + random() % 0x200));
        matrix = {WF_BF16, ROWS, COLUMNS, weight.data(), 2 * ROWS * COLUMNS, nullptr, 0};
    }
    bool multiply(wf_runtime *runtime, std::vector<float> &y) const {
        y.assign(TOKENS * ROWS, 0);
        return wf_linear(runtime, &matrix, x.data(), TOKENS, 0, y.data(), 0) == WF_OK;
    }
};

struct Setting {
    int32_t threads, batch_invariant;
    std::string isa;

    wf_runtime *create() const {
        wf_runtime *runtime = nullptr;
        return wf_runtime_create(threads, isa.c_str(), batch_invariant, WF_ACTIVATIONS_BF16, nullptr, &runtime) == WF_OK
                   ? runtime
                   : nullptr;
    }
};

// A runtime that threads replace while others use it: who takes it holds it until the call is done.
class Slot {
  public:
    explicit Slot(const Setting &setting) : setting_(setting), runtime_(setting.create()) {}
    ~Slot() { wf_runtime_release(runtime_); }
    wf_runtime *take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        wf_runtime_share(runtime_);
        return runtime_;
    }
    void renew() {
        wf_runtime *fresh = setting_.create();
        std::unique_lock<std::mutex> lock(mutex_);
        std::swap(fresh, runtime_);
        lock.unlock();
        wf_runtime_release(fresh);
    }
    const Setting &setting() const { return setting_; }

  private:
    const Setting setting_;
    std::mutex mutex_;
    wf_runtime *runtime_;
};

}  // namespace

int main(int count, char **arguments) {
    const double seconds = count > 1 ? std::atof(arguments[1]) : 5;
    const std::string isas = wf_isas(), best = isas.substr(0, isas.find(' '));
    const Work work;
    std::vector<std::unique_ptr<Slot>> slots;
    slots.emplace_back(new Slot({2, 0, best}));
    slots.emplace_back(new Slot({3, 1, "generic"}));
    std::vector<std::vector<float>> expected(slots.size());
    for (size_t i = 0; i < slots.size(); i++) {
        wf_runtime *runtime = slots[i]->take();
        if (!work.multiply(runtime, expected[i])) return std::puts("no product"), 1;
        wf_runtime_release(runtime);
    }
    std::atomic<long> calls{0};
    std::atomic<bool> wrong{false};
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < 4; number++)
        threads.emplace_back([&, number] {
            std::mt19937 random(number);
            std::vector<float> y;
            while (std::chrono::steady_clock::now() < until && !wrong) {
                const size_t i = random() % slots.size();
                wf_runtime *runtime = slots[i]->take();
                const bool same =
                    work.multiply(runtime, y) && !std::memcmp(y.data(), expected[i].data(), sizeof(float) * y.size()) &&
                    slots[i]->setting().isa == wf_runtime_isa(runtime) && wf_runtime_inside_ns(runtime) > 0;
                if (!same) wrong = true;
                if (random() % 64 == 0) slots[i]->renew();
                wf_runtime_release(runtime);
                calls++;
            }
        });
    for (std::thread &thread : threads) thread.join();
    if (wrong) return std::puts("a product differs, or an error"), 1;
    std::printf("%ld calls of 4 threads on 2 runtimes: no difference\n", calls.load());
    return 0;
}
