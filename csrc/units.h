// The queries of several jobs (Attend, Index) as one list of tasks for Threads::each.
//
// Few queries of a job at a time are a unit: a job of its own, whose tasks follow one another in the list. A unit is one
// task while enough follows it to keep every thread busy; the last ones are cut, so that threads end together. How a
// unit is cut changes no result.
#pragma once

#include <algorithm>

#include "runtime.h"

namespace wf {

template <class Job>
struct Unit {
    Job job;
    int64_t cost, rest;           // of its queries; of this unit and of all after it
    int64_t first, tasks, parts;  // of the list: first .. first + tasks, which are cut into so many parts
    int64_t joined;               // items of the units before it that are joined afterwards
    int64_t kept;                 // what the units before it keep until then, as the job counts it

    // Tasks of about equal cost that it takes for `threads` to end together.
    int64_t cuts(int64_t threads) const { return (threads * cost + rest - 1) / rest; }
};

template <class Job>
struct Units {
    Unit<Job> *all = nullptr;
    int64_t count = 0;

    // part_of(job, query, queries) -> a job, cost_of(job) -> 1 or more. False when there is no memory.
    template <class PartOf, class CostOf>
    bool list(Runtime &runtime, const Job *jobs, int64_t num_jobs, int64_t most, const PartOf &part_of,
              const CostOf &cost_of) {
        int64_t queries = 0;
        for (int64_t i = 0; i < num_jobs; i++) queries += jobs[i].queries;
        const int64_t each = queries < 2 * runtime.threads() ? 1 : most;
        for (int64_t i = 0; i < num_jobs; i++) count += (jobs[i].queries + each - 1) / each;
        all = static_cast<Unit<Job> *>(runtime.scratch(count * int64_t(sizeof(Unit<Job>)), 3));
        if (!all) return false;
        Unit<Job> *unit = all;
        for (int64_t i = 0; i < num_jobs; i++)
            for (int64_t query = 0; query < jobs[i].queries; query += each, unit++) {
                const Job job = part_of(jobs[i], query, std::min(each, jobs[i].queries - query));
                *unit = {job, cost_of(job), 0, 0, 1, 1, 0, 0};
            }
        for (int64_t i = count, rest = 0; i-- > 0;) all[i].rest = rest += all[i].cost;
        return true;
    }

    Unit<Job> *begin() const { return all; }
    Unit<Job> *end() const { return all + count; }

    // The last unit with no more than `item` before it: `before` is Unit::first or Unit::joined.
    const Unit<Job> &at(int64_t item, int64_t Unit<Job>::*before) const {
        return *(std::upper_bound(begin(), end(), item, [&](int64_t n, const Unit<Job> &u) { return n < u.*before; }) -
                 1);
    }
};

}  // namespace wf
