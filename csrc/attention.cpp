// How attention and indexing are cut into tasks for the runtime's threads. The cut changes no result.
#include "attention.h"

#include <algorithm>
#include <functional>

#include "runtime.h"

namespace wf {

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

bool attend(Runtime &runtime, Attend job, const AttentionKernels &kernels) {
    const int64_t threads = runtime.threads();
    const int64_t entries = !job.ratio ? 0 : job.chosen ? job.most_chosen : job.visible(job.queries - 1);
    job.spans = entries > SPAN ? (entries + SPAN - 1) / SPAN : 1;
    const int64_t each = job.queries < 2 * threads ? 1 : MOST_QUERIES;  // queries of a task
    const int64_t blocks = (job.queries + each - 1) / each;
    const bool split_spans = blocks < threads && job.spans > 1;
    const int64_t per_block = split_spans ? job.spans : 1;
    // too few tasks for the threads: cut the heads too
    const int64_t groups =
        blocks * per_block >= threads ? 1 : (threads + blocks * per_block - 1) / (blocks * per_block);
    const int64_t group = (job.heads + groups - 1) / groups;
    const int64_t head_groups = (job.heads + group - 1) / group;
    float no_partial = 0;
    job.partial = split_spans ? &no_partial : nullptr;  // as the layout of the scratch depends on it
    const int64_t one = padded(kernels.attend_bytes(job), 64);
    const int64_t kept = split_spans ? 4 * job.queries * job.spans * job.heads * (job.width() + 16) : 0;
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(one * threads + kept));
    if (!scratch) return false;
    if (split_spans) job.partial = reinterpret_cast<float *>(scratch + one * threads);
    runtime.each(blocks * per_block * head_groups, [&](int64_t item, int thread) {
        const int64_t head = item % head_groups * group, span = item / head_groups % per_block;
        const int64_t query = item / head_groups / per_block * each;
        const AttendTask task = {query,
                                 job.queries - query < each ? job.queries - query : each,
                                 head,
                                 job.heads - head < group ? job.heads - head : group,
                                 split_spans ? span : 0,
                                 split_spans ? 1 : job.spans};
        kernels.attend(job, task, scratch + one * thread);
    });
    if (split_spans)
        runtime.each(job.queries * job.heads, [&](int64_t item, int thread) {
            kernels.join(job, item / job.heads, item % job.heads, scratch + one * thread);
        });
    return true;
}

bool index(Runtime &runtime, const Index &job, const AttentionKernels &kernels) {
    constexpr int64_t QUERIES = 32, LEAST_KEYS = 512;  // of a task
    const int64_t threads = runtime.threads(), entries = job.visible(job.queries - 1);
    const int64_t blocks = (job.queries + QUERIES - 1) / QUERIES;
    const int64_t each = job.queries < 2 * threads ? 1 : QUERIES;
    const int64_t one = padded(kernels.index_bytes(job), 64), best_bytes = padded(8 * Best::capacity(job.k), 64);
    if (each == 1) {  // cut the keys, then join the threads' best
        int64_t cuts = (entries + LEAST_KEYS - 1) / LEAST_KEYS;
        cuts = cuts < 1 ? 1 : cuts > threads ? threads : cuts;
        uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch((one + best_bytes) * threads));
        if (!scratch) return false;
        for (int64_t query = 0; query < job.queries; query++) {
            Best best[64];
            const int64_t parts = cuts < 64 ? cuts : 64;
            for (int64_t i = 0; i < parts; i++)
                best[i] = {reinterpret_cast<uint64_t *>(scratch + one * threads + best_bytes * i), job.k, 0, 0,
                           -INFINITY};
            runtime.each(parts, [&](int64_t part, int thread) {
                int64_t first, end;
                share(entries, KEYS, int(part), int(parts), first, end);
                kernels.index(job, query, query + 1, first, end, best + part, scratch + one * thread);
            });
            for (int64_t i = 1; i < parts; i++)
                for (int64_t j = 0; j < best[i].count; j++) {
                    best[0].add(best[i].words[j]);
                    best[0].shrink();
                }
            best[0].write(job.out + query * job.k);
        }
        return true;
    }
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch((one + best_bytes * QUERIES) * threads));
    if (!scratch) return false;
    runtime.each(blocks, [&](int64_t block, int thread) {
        uint8_t *mine = scratch + (one + best_bytes * QUERIES) * thread;
        const int64_t begin = block * QUERIES, stop = begin + QUERIES < job.queries ? begin + QUERIES : job.queries;
        Best best[QUERIES];
        for (int64_t i = 0; i < QUERIES; i++)
            best[i] = {reinterpret_cast<uint64_t *>(mine + one + best_bytes * i), job.k, 0, 0, -INFINITY};
        kernels.index(job, begin, stop, 0, job.visible(stop - 1), best, mine);
        for (int64_t query = begin; query < stop; query++) best[query - begin].write(job.out + query * job.k);
    });
    return true;
}

}  // namespace wf
