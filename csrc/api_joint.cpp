// The C interface of attention in training: every size is checked here, and work is shared out. Gradients of keys are summed
// in parts of a sequence, as many as the shape says, and these added in order: their bits do not depend on the threads.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "api.h"
#include "training.h"

namespace wf {
namespace {

constexpr int64_t PARTS = 16;

// The sequences of a call, or an error.
int sequences_of(const wf_joint *given, std::vector<Joint> &jobs) {
    if (!given || !given->q || !given->kv || !given->sink || !given->lengths) return WF_ERROR_NULL;
    if (bad(given->sequences) || bad(given->tokens) || bad(given->heads, 1 << 16) || bad(given->dim, 1 << 16) ||
        given->dim % 32 || bad(given->window, 1 << 20) || given->ratio < 0 || given->ratio > 1 << 16)
        return WF_ERROR_SHAPE;
    int64_t token = 0, entry = 0, seen = 0;
    for (int64_t i = 0; i < given->sequences; i++) {
        const int64_t length = given->lengths[i];
        if (bad(length) || length > given->tokens - token) return WF_ERROR_SHAPE;
        Joint job = {};
        job.length = length, job.num_entries = given->ratio ? length / given->ratio : 0;
        job.heads = given->heads, job.dim = given->dim, job.window = given->window, job.ratio = given->ratio;
        job.q = given->q + token * job.heads * job.dim, job.kv = given->kv + token * job.dim;
        job.sink = given->sink;
        if (job.num_entries) {
            if (!given->entries) return WF_ERROR_NULL;
            job.entries = given->entries + entry * job.dim;
            job.chosen = given->chosen ? given->chosen + seen : nullptr;
        }
        token += length, entry += job.num_entries, seen += length * job.num_entries;
        jobs.push_back(job);
    }
    return token == given->tokens ? WF_OK : WF_ERROR_SHAPE;
}

// Scratch of the largest sequence, for each thread.
int64_t scratch_bytes(const std::vector<Joint> &jobs, const TrainingKernels &kernels) {
    int64_t most = 0;
    for (const Joint &job : jobs) most = std::max(most, kernels.joint_bytes(job));
    return most;
}

struct Chunk {
    int64_t job, number;
};

// Chunks first .. end of a sequence, and what they add to the gradients of its tokens token .. and of its first entries.
struct Part {
    int64_t job, first, end, token, tokens, entries;
    float *kv, *of_entries;

    int64_t floats(int64_t dim) const { return (tokens + entries) * dim; }
};

int attend(wf_runtime *runtime, const wf_joint *given, uint16_t *o, float *lse, float *mass) {
    std::vector<Joint> jobs;
    if (const int error = sequences_of(given, jobs)) return error;
    std::vector<Chunk> chunks;
    for (size_t i = 0; i < jobs.size(); i++) {
        Joint &job = jobs[i];
        job.o = o, job.lse = lse;
        o += job.length * job.heads * job.dim, lse += job.length * job.heads;
        if (mass && job.num_entries) job.mass = mass, mass += job.length * job.num_entries;
        for (int64_t number = 0; number < job.chunks(); number++) chunks.push_back({int64_t(i), number});
    }
    const TrainingKernels &kernels = runtime->training();
    const int64_t each = scratch_bytes(jobs, kernels);
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each(int64_t(chunks.size()), [&](int64_t i, int thread) {
        const Chunk &chunk = chunks[size_t(i)];
        kernels.joint(jobs[size_t(chunk.job)], chunk.number, scratch + each * thread);
    });
    return WF_OK;
}

int attend_grad(wf_runtime *runtime, const wf_joint *given, const float *lse, const uint16_t *grad_o, uint16_t *grad_q,
                uint16_t *grad_kv, uint16_t *grad_entries, float *delta) {
    std::vector<Joint> jobs;
    if (const int error = sequences_of(given, jobs)) return error;
    int64_t chunks = 0, rows = 0;
    for (Joint &job : jobs) {
        if (job.num_entries && !grad_entries) return WF_ERROR_NULL;
        const int64_t values = rows * job.dim;
        job.lse = const_cast<float *>(lse) + rows;
        job.grad_o = grad_o + values, job.grad_q = grad_q + values, job.delta = delta + rows;
        rows += job.length * job.heads, chunks += job.chunks();
    }
    std::vector<Part> parts;
    int64_t floats = 0;
    for (size_t i = 0; i < jobs.size(); i++) {
        const Joint &job = jobs[i];
        const int64_t count = std::max<int64_t>(1, PARTS * job.chunks() / chunks);
        for (int64_t part = 0; part < count; part++) {
            const int64_t first = job.chunks() * part / count, end = job.chunks() * (part + 1) / count;
            if (first == end) continue;
            const JointChunk oldest(job, first), last(job, end - 1);
            parts.push_back({int64_t(i), first, end, oldest.token, last.token + last.tokens - oldest.token,
                             last.entries, nullptr, nullptr});
            floats += parts.back().floats(job.dim);
        }
    }
    const TrainingKernels &kernels = runtime->training();
    const int64_t each = scratch_bytes(jobs, kernels), dim = given->dim;
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    float *sums = static_cast<float *>(runtime->scratch(4 * floats, 1));
    if (!scratch || !sums) return WF_ERROR_MEMORY;
    for (Part &part : parts) part.kv = sums, part.of_entries = sums + part.tokens * dim, sums += part.floats(dim);
    runtime->each(int64_t(parts.size()), [&](int64_t i, int thread) {
        const Part &part = parts[size_t(i)];
        std::memset(part.kv, 0, size_t(4 * part.floats(dim)));
        for (int64_t chunk = part.first; chunk < part.end; chunk++)
            kernels.joint_grad(jobs[size_t(part.job)], chunk, part.token, part.kv, part.of_entries,
                               scratch + each * thread);
    });
    size_t begin = 0;  // of a sequence's parts
    for (size_t i = 0; i < jobs.size(); i++) {
        size_t stop = begin;
        while (stop < parts.size() && parts[stop].job == int64_t(i)) stop++;
        const auto join = [&](int64_t row, bool entry, uint16_t *to) {
            const float *found[PARTS + 1];
            int64_t count = 0;
            for (size_t p = begin; p < stop; p++) {
                const Part &part = parts[p];
                const int64_t at = entry ? row : row - part.token;
                if (at >= 0 && at < (entry ? part.entries : part.tokens))
                    found[count++] = (entry ? part.of_entries : part.kv) + at * dim;
            }
            kernels.joint_join(found, count, dim, to + row * dim);
        };
        runtime->each(jobs[i].length, [&](int64_t row, int) { join(row, false, grad_kv); }, 16);
        runtime->each(jobs[i].num_entries, [&](int64_t row, int) { join(row, true, grad_entries); }, 16);
        grad_kv += jobs[i].length * dim;
        if (jobs[i].num_entries) grad_entries += jobs[i].num_entries * dim;
        begin = stop;
    }
    return WF_OK;
}

}  // namespace
}  // namespace wf

extern "C" {

int wf_joint_attention(wf_runtime *runtime, const wf_joint *joint, uint16_t *o, float *lse, float *mass) {
    if (!runtime || !o || !lse) return WF_ERROR_NULL;
    const wf::Call inside(*runtime);
    try {
        return wf::attend(runtime, joint, o, lse, mass);
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

int wf_joint_attention_grad(wf_runtime *runtime, const wf_joint *joint, const float *lse, const uint16_t *grad_o,
                            uint16_t *grad_q, uint16_t *grad_kv, uint16_t *grad_entries, float *delta) {
    if (!runtime || !lse || !grad_o || !grad_q || !grad_kv || !delta) return WF_ERROR_NULL;
    const wf::Call inside(*runtime);
    try {
        return wf::attend_grad(runtime, joint, lse, grad_o, grad_q, grad_kv, grad_entries, delta);
    } catch (const std::bad_alloc &) {
        return WF_ERROR_MEMORY;
    }
}

}  // extern "C"
