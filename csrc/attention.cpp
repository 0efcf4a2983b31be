// How attention is cut into tasks for the runtime's threads. The cut changes no result.
#include "attention.h"

#include "units.h"

namespace wf {
namespace {

Attend part_of(Attend job, int64_t query, int64_t queries) {
    job.q += query * job.heads * job.dim, job.out += query * job.heads * job.dim;
    if (job.chosen) job.chosen += query * job.most_chosen;
    job.first += query, job.queries = queries;
    return job;
}

int64_t entries_of(const Attend &job) {
    return !job.ratio ? 0 : job.chosen ? job.most_chosen : job.visible(job.queries - 1);
}

int64_t cost_of(const Attend &job) {
    return job.queries *
           (std::min(job.window, job.first + job.queries) + std::min(entries_of(job), job.visible(job.queries - 1)));
}

}  // namespace

bool attend(Runtime &runtime, const Attend *jobs, int64_t count, const AttentionKernels &kernels) {
    const int64_t threads = runtime.threads();
    Units<Attend> units;
    if (!units.list(runtime, jobs, count, MOST_QUERIES, part_of, cost_of)) return false;
    float no_partial = 0;
    int64_t one = 0, kept = 0, tasks = 0, joined = 0;
    // heads of one unit decode the same keys anew: where there are many units, at most two groups of them do so
    const int64_t most_groups = std::max<int64_t>(2, (threads + units.count - 1) / units.count);
    for (Unit<Attend> &unit : units) {
        Attend &job = unit.job;
        job.spans = std::max<int64_t>(1, (entries_of(job) + SPAN - 1) / SPAN);
        const int64_t cuts = unit.cuts(threads);
        const bool split_spans = cuts > 1 && job.spans > 1;
        job.partial = split_spans ? &no_partial : nullptr;  // as the layout of the scratch depends on it
        const int64_t spans = split_spans ? job.spans : 1;
        unit.parts = std::min(std::min((cuts + spans - 1) / spans, most_groups), job.heads);  // groups of heads
        const int64_t group = (job.heads + unit.parts - 1) / unit.parts;
        unit.parts = (job.heads + group - 1) / group;
        unit.first = tasks, unit.tasks = spans * unit.parts, unit.kept = kept, unit.joined = joined;
        tasks += unit.tasks;
        one = std::max(one, padded(kernels.attend_bytes(job), 64));
        if (!split_spans) continue;
        kept += 4 * job.queries * spans * job.heads * (job.width() + 16);
        joined += job.queries * job.heads;
    }
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(one * threads + kept));
    if (!scratch) return false;
    for (Unit<Attend> &unit : units)
        if (unit.job.partial) unit.job.partial = reinterpret_cast<float *>(scratch + one * threads + unit.kept);
    runtime.each(tasks, [&](int64_t item, int thread) {
        const Unit<Attend> &unit = units.at(item, &Unit<Attend>::first);
        const Attend &job = unit.job;
        const int64_t group = (job.heads + unit.parts - 1) / unit.parts;
        const int64_t head = (item - unit.first) % unit.parts * group, span = (item - unit.first) / unit.parts;
        const AttendTask task = {
            0, job.queries, head, std::min(group, job.heads - head), span, job.partial ? 1 : job.spans};
        kernels.attend(job, task, scratch + one * thread);
    });
    runtime.each(joined, [&](int64_t item, int thread) {
        const Unit<Attend> &unit = units.at(item, &Unit<Attend>::joined);
        const int64_t place = item - unit.joined, heads = unit.job.heads;
        kernels.join(unit.job, place / heads, place % heads, scratch + one * thread);
    });
    return true;
}

}  // namespace wf
