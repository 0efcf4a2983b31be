// How indexing is cut into tasks for the runtime's threads. The cut changes no result.
#include "index.h"

#include <functional>

#include "attention.h"
#include "units.h"

namespace wf {
namespace {

constexpr int64_t QUERIES = 32, LEAST_KEYS = 512;  // of a task

Index part_of(Index job, int64_t query, int64_t queries) {
    job.q += query * job.heads * job.dim, job.weights += query * job.heads, job.out += query * job.k;
    job.first += query, job.queries = queries;
    return job;
}

int64_t cost_of(const Index &job) { return job.queries * std::max<int64_t>(1, job.visible(job.queries - 1)); }

Best empty(uint8_t *words, int64_t k) { return {reinterpret_cast<uint64_t *>(words), k, 0, 0, -INFINITY}; }

}  // namespace

void Best::cut() {
    std::nth_element(words, words + k - 1, words + count, std::greater<uint64_t>());
    count = k, least = words[k - 1], floor = score(least);
}

void Best::write(int32_t *out) {
    const int64_t kept = count < k ? count : k;
    std::partial_sort(words, words + kept, words + count, std::greater<uint64_t>());
    for (int64_t i = 0; i < kept; i++) out[i] = entry(words[i]);
    for (int64_t i = kept; i < k; i++) out[i] = -1;
}

bool index(Runtime &runtime, const Index *jobs, int64_t count, const AttentionKernels &kernels) {
    const int64_t threads = runtime.threads();
    Units<Index> units;
    if (!units.list(runtime, jobs, count, QUERIES, part_of, cost_of)) return false;
    int64_t one = 0, lists = 0, best_bytes = 0, tasks = 0, joined = 0, kept = 0;
    int64_t left = 2 * threads * QUERIES;  // lists of parts that may be kept
    for (Unit<Index> &unit : units) {
        const Index &job = unit.job;
        const int64_t entries = job.visible(job.queries - 1);
        const int64_t parts = std::min(unit.cuts(threads), (entries + LEAST_KEYS - 1) / LEAST_KEYS);
        unit.parts = std::max<int64_t>(1, std::min(parts, left / job.queries));
        unit.first = tasks, unit.tasks = unit.parts, unit.kept = kept, unit.joined = joined;
        tasks += unit.tasks;
        one = std::max(one, padded(kernels.index_bytes(job), 64));
        best_bytes = std::max(best_bytes, padded(8 * Best::capacity(job.k), 64));
        if (unit.parts == 1) {
            lists = std::max(lists, job.queries);
            continue;
        }
        left -= unit.parts * job.queries;
        kept += unit.parts * job.queries;
        joined += job.queries;
    }
    const int64_t mine = one + lists * best_bytes, kept_bytes = padded(kept * int64_t(sizeof(Best)), 64);
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(mine * threads + kept_bytes + kept * best_bytes));
    if (!scratch) return false;
    Best *const parts_best = reinterpret_cast<Best *>(scratch + mine * threads);
    uint8_t *const parts_words = scratch + mine * threads + kept_bytes;
    runtime.each(tasks, [&](int64_t item, int thread) {
        const Unit<Index> &unit = units.at(item, &Unit<Index>::first);
        const Index &job = unit.job;
        uint8_t *own = scratch + mine * thread;
        const int64_t part = item - unit.first;
        int64_t first, end;
        share(job.visible(job.queries - 1), KEYS, int(part), int(unit.parts), first, end);
        Best whole[QUERIES];
        const int64_t place = unit.kept + part * job.queries;
        Best *best = unit.parts > 1 ? parts_best + place : whole;
        uint8_t *words = unit.parts > 1 ? parts_words + place * best_bytes : own + one;
        for (int64_t i = 0; i < job.queries; i++) best[i] = empty(words + i * best_bytes, job.k);
        kernels.index(job, 0, job.queries, first, end, best, own);
        for (int64_t i = 0; unit.parts == 1 && i < job.queries; i++) best[i].write(job.out + i * job.k);
    });
    // the best of a query's parts
    runtime.each(joined, [&](int64_t item, int) {
        const Unit<Index> &unit = units.at(item, &Unit<Index>::joined);
        const int64_t query = item - unit.joined;
        Best *const best = parts_best + unit.kept + query;
        for (int64_t part = 1; part < unit.parts; part++) {
            const Best &next = best[part * unit.job.queries];
            for (int64_t j = 0; j < next.count; j++) {
                best->add(next.words[j]);
                best->shrink();
            }
        }
        best->write(unit.job.out + query * unit.job.k);
    });
    return true;
}

}  // namespace wf
