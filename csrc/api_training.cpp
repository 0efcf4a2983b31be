// The C interface of training: every size is checked here. Sums over tokens are made in parts, as many as the shape says,
// and these added in order: their bits do not depend on the threads.
#include <cstring>

#include "api.h"
#include "training.h"

namespace wf {
namespace {

constexpr int64_t PARTS = 16;

// Sums of `width` floats over `blocks` blocks: body(block, partial, scratch of `bytes`), then out(i) of each sum.
struct Sums {
    int64_t width, parts;
    const float *partial;

    void to(float *out, int64_t first, int64_t count) const {
        std::memcpy(out, partial + first, size_t(4 * count));
        for (int64_t part = 1; part < parts; part++) {
            const float *more = partial + part * width + first;
            for (int64_t i = 0; i < count; i++) out[i] += more[i];
        }
    }
};

template <class Body>
bool sum_blocks(Runtime &runtime, int64_t blocks, int64_t width, int64_t bytes, Sums &sums, const Body &body) {
    const int64_t parts = blocks < PARTS ? blocks : PARTS, each = (bytes + 63) / 64 * 64;
    const int64_t partial_bytes = (parts * width * 4 + 63) / 64 * 64;
    uint8_t *scratch = static_cast<uint8_t *>(runtime.scratch(partial_bytes + each * runtime.threads()));
    if (!scratch) return false;
    float *partial = reinterpret_cast<float *>(scratch);
    runtime.each(parts, [&](int64_t part, int thread) {
        float *mine = partial + part * width;
        std::memset(mine, 0, size_t(4 * width));
        for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; block++)
            body(block, mine, scratch + partial_bytes + each * thread);
    });
    sums = {width, parts, partial};
    return true;
}

int check(const wf_hc *hc, int64_t tokens) {
    if (!hc || !hc->fn || !hc->base || !hc->scale) return WF_ERROR_NULL;
    if (bad(tokens) || bad(hc->hidden) || hc->streams != GRAD_STREAMS || (!hc->last && bad(hc->iters, MOST_ITERS)))
        return WF_ERROR_SHAPE;
    return WF_OK;
}

HyperGrad job_of(const wf_hc &hc, const uint16_t *x, float *mixes) {
    HyperGrad job = {};
    job.x = x, job.mixes = mixes, job.fn = hc.fn, job.base = hc.base, job.scale = hc.scale, job.hidden = hc.hidden;
    job.iters = hc.iters, job.eps = hc.eps, job.norm_eps = hc.norm_eps, job.head = hc.last != 0;
    return job;
}

int64_t in_block(int64_t tokens, int64_t block) {
    return tokens - block * GRAD_TOKENS < GRAD_TOKENS ? tokens - block * GRAD_TOKENS : GRAD_TOKENS;
}

int check(const wf_turn *turn, int64_t rows, int64_t columns, NormRows &job) {
    job.columns = columns, job.heads = 1;
    if (bad(rows) || bad(columns)) return WF_ERROR_SHAPE;
    if (!turn) return WF_OK;
    if (!turn->cosine || !turn->sine) return WF_ERROR_NULL;
    if (bad(turn->pairs) || 2 * turn->pairs > columns || bad(turn->heads) || rows % turn->heads) return WF_ERROR_SHAPE;
    job.cosine = turn->cosine, job.sine = turn->sine, job.pairs = turn->pairs, job.heads = turn->heads;
    job.inverse = turn->inverse != 0;
    return WF_OK;
}

// `one(job, first, end)` for shares of the rows.
template <class Job>
int for_rows(wf_runtime *runtime, const Job &job, int64_t rows, void (*one)(const Job &, int64_t, int64_t)) {
    const wf::Call inside(*runtime);
    runtime->each((rows + GRAD_TOKENS - 1) / GRAD_TOKENS, [&](int64_t block, int) {
        one(job, block * GRAD_TOKENS, block * GRAD_TOKENS + in_block(rows, block));
    });
    return WF_OK;
}

// The entries of sequences whose `lengths` sum to `tokens`, or an error; `starts` (or null, and they are counted alone).
int entries_of(const int64_t *lengths, int64_t sequences, int64_t tokens, int64_t ratio, int64_t *starts,
               int64_t &entries) {
    int64_t token = 0;
    entries = 0;
    for (int64_t i = 0; i < sequences; i++) {
        if (bad(lengths[i]) || lengths[i] > tokens - token) return WF_ERROR_SHAPE;
        const int64_t blocks = lengths[i] / ratio;
        for (int64_t block = 0; starts && block < blocks; block++)
            starts[entries + block] = (token + block * ratio) * 4 + (block > 0) + 2 * (block + 1 < blocks);
        token += lengths[i], entries += blocks;
    }
    return token == tokens ? WF_OK : WF_ERROR_SHAPE;
}

int check(const wf_compression *given, Compression &job, int64_t &entries) {
    if (!given || !given->kv || !given->score || !given->ape || !given->lengths) return WF_ERROR_NULL;
    if (bad(given->tokens) || bad(given->sequences) || bad(given->ratio, 1 << 16) || bad(given->dim, 1 << 16))
        return WF_ERROR_SHAPE;
    job.kv = given->kv, job.score = given->score, job.ape = given->ape;
    job.ratio = given->ratio, job.dim = given->dim, job.overlap = given->overlap != 0;
    const int error = entries_of(given->lengths, given->sequences, given->tokens, job.ratio, nullptr, entries);
    return error ? error : entries ? WF_OK : WF_ERROR_SHAPE;
}

bool find_entries(wf_runtime *runtime, const wf_compression *given, Compression &job, int64_t entries) {
    int64_t *starts = static_cast<int64_t *>(runtime->scratch(8 * entries, 1));
    if (!starts) return false;
    entries_of(given->lengths, given->sequences, given->tokens, job.ratio, starts, entries);
    job.starts = starts;
    return true;
}

}  // namespace
}  // namespace wf

using namespace wf;

extern "C" {

int wf_hc_read(wf_runtime *runtime, const wf_hc *hc, const uint16_t *x, int64_t tokens, float *mixes, uint16_t *out,
               float *post, float *comb) {
    if (!runtime || !x || !mixes || !out) return WF_ERROR_NULL;
    if (const int error = check(hc, tokens)) return error;
    if (!hc->last && (!post || !comb)) return WF_ERROR_NULL;
    HyperGrad job = job_of(*hc, x, mixes);
    job.out = out, job.post = post, job.comb = comb;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    const int64_t each = (kernels.hyper_bytes(job) + 63) / 64 * 64;
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each((tokens + GRAD_TOKENS - 1) / GRAD_TOKENS, [&](int64_t block, int thread) {
        kernels.hyper_read(job, block * GRAD_TOKENS, in_block(tokens, block), scratch + each * thread);
    });
    return WF_OK;
}

int wf_hc_read_grad(wf_runtime *runtime, const wf_hc *hc, const uint16_t *x, int64_t tokens, const float *mixes,
                    const uint16_t *grad_out, const float *grad_post, const float *grad_comb, const uint16_t *grad_past,
                    uint16_t *grad_x, float *grad_fn, float *grad_base, float *grad_scale) {
    if (!runtime || !x || !mixes || !grad_out || !grad_x || !grad_fn || !grad_base || !grad_scale) return WF_ERROR_NULL;
    if (const int error = check(hc, tokens)) return error;
    if (!hc->last && (!grad_post || !grad_comb)) return WF_ERROR_NULL;
    HyperGrad job = job_of(*hc, x, const_cast<float *>(mixes));
    job.grad_out = grad_out, job.grad_post = grad_post, job.grad_comb = grad_comb, job.grad_past = grad_past;
    job.grad_x = grad_x;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    Sums sums;
    const bool done =
        sum_blocks(*runtime, (tokens + GRAD_TOKENS - 1) / GRAD_TOKENS, job.partial(), kernels.hyper_bytes(job), sums,
                   [&](int64_t block, float *partial, uint8_t *scratch) {
                       kernels.hyper_read_grad(job, block * GRAD_TOKENS, in_block(tokens, block), partial, scratch);
                   });
    if (!done) return WF_ERROR_MEMORY;
    const int64_t width = GRAD_STREAMS * job.hidden, outputs = job.outputs();
    runtime->each(outputs, [&](int64_t o, int) { sums.to(grad_fn + o * width, o * width, width); });
    sums.to(grad_base, outputs * width, outputs);
    sums.to(grad_scale, outputs * (width + 1), job.scales());
    return WF_OK;
}

int wf_hc_return(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                 int64_t tokens, int32_t streams, int64_t hidden, uint16_t *y) {
    if (!runtime || !f || !x || !post || !comb || !y) return WF_ERROR_NULL;
    if (bad(tokens) || streams != GRAD_STREAMS || bad(hidden)) return WF_ERROR_SHAPE;
    HyperReturn job = {};
    job.f = f, job.x = x, job.post = post, job.comb = comb, job.hidden = hidden, job.y = y;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    runtime->each(tokens, [&](int64_t token, int) { kernels.hyper_return(job, token, token + 1); }, GRAD_TOKENS);
    return WF_OK;
}

int wf_hc_return_grad(wf_runtime *runtime, const uint16_t *f, const uint16_t *x, const float *post, const float *comb,
                      const uint16_t *grad_y, int64_t tokens, int32_t streams, int64_t hidden, uint16_t *grad_f,
                      uint16_t *grad_x, float *grad_post, float *grad_comb) {
    if (!runtime || !f || !x || !post || !comb || !grad_y || !grad_f || !grad_x || !grad_post || !grad_comb)
        return WF_ERROR_NULL;
    if (bad(tokens) || streams != GRAD_STREAMS || bad(hidden)) return WF_ERROR_SHAPE;
    HyperReturn job = {};
    job.f = f, job.x = x, job.post = post, job.comb = comb, job.hidden = hidden, job.grad_y = grad_y;
    job.grad_f = grad_f, job.grad_x = grad_x, job.grad_post = grad_post, job.grad_comb = grad_comb;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    runtime->each(tokens, [&](int64_t token, int) { kernels.hyper_return_grad(job, token, token + 1); }, GRAD_TOKENS);
    return WF_OK;
}

int wf_norm(wf_runtime *runtime, const uint16_t *x, const float *weight, int64_t rows, int64_t columns, float eps,
            const wf_turn *turn, uint16_t *out) {
    if (!runtime || !x || !out) return WF_ERROR_NULL;
    NormRows job = {};
    if (const int error = check(turn, rows, columns, job)) return error;
    job.x = x, job.weight = weight, job.eps = eps, job.out = out;
    return for_rows(runtime, job, rows, runtime->training().norm);
}

int wf_norm_grad(wf_runtime *runtime, const uint16_t *x, const float *weight, int64_t rows, int64_t columns, float eps,
                 const wf_turn *turn, const uint16_t *grad, uint16_t *grad_x, float *grad_weight) {
    if (!runtime || !x || !grad || !grad_x || (weight && !grad_weight)) return WF_ERROR_NULL;
    NormRows job = {};
    if (const int error = check(turn, rows, columns, job)) return error;
    job.x = x, job.weight = weight, job.eps = eps, job.grad = grad, job.out = grad_x;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    Sums sums;
    const bool done = sum_blocks(*runtime, (rows + GRAD_TOKENS - 1) / GRAD_TOKENS, weight ? columns : 1, 2 * columns,
                                 sums, [&](int64_t block, float *partial, uint8_t *scratch) {
                                     const int64_t first = block * GRAD_TOKENS;
                                     kernels.norm_grad(job, first, first + in_block(rows, block), partial, scratch);
                                 });
    if (!done) return WF_ERROR_MEMORY;
    if (weight) sums.to(grad_weight, 0, columns);
    return WF_OK;
}

int wf_rotate(wf_runtime *runtime, const uint16_t *x, int64_t rows, int64_t columns, const wf_turn *turn,
              uint16_t *out) {
    if (!runtime || !x || !turn || !out) return WF_ERROR_NULL;
    NormRows job = {};
    if (const int error = check(turn, rows, columns, job)) return error;
    job.x = x, job.out = out;
    return for_rows(runtime, job, rows, runtime->training().rotate);
}

int wf_swiglu(wf_runtime *runtime, const uint16_t *gate, const uint16_t *up, const float *route, int64_t rows,
              int64_t inter, float limit, uint16_t *inner) {
    if (!runtime || !gate || !up || !inner) return WF_ERROR_NULL;
    if (bad(rows) || bad(inter)) return WF_ERROR_SHAPE;
    Swiglu job = {};
    job.gate = gate, job.up = up, job.route = route, job.inter = inter, job.limit = limit, job.inner = inner;
    return for_rows(runtime, job, rows, runtime->training().swiglu);
}

int wf_swiglu_grad(wf_runtime *runtime, const uint16_t *gate, const uint16_t *up, const float *route,
                   const uint16_t *grad, int64_t rows, int64_t inter, float limit, uint16_t *grad_gate,
                   uint16_t *grad_up, float *grad_route) {
    if (!runtime || !gate || !up || !grad || !grad_gate || !grad_up || (route && !grad_route)) return WF_ERROR_NULL;
    if (bad(rows) || bad(inter)) return WF_ERROR_SHAPE;
    Swiglu job = {};
    job.gate = gate, job.up = up, job.route = route, job.inter = inter, job.limit = limit, job.grad = grad;
    job.grad_gate = grad_gate, job.grad_up = grad_up, job.grad_route = grad_route;
    return for_rows(runtime, job, rows, runtime->training().swiglu_grad);
}

int wf_cross_entropy(wf_runtime *runtime, uint16_t *logits, const int64_t *targets, int64_t rows, int64_t vocabulary,
                     float *nats) {
    if (!runtime || !logits || !targets || !nats) return WF_ERROR_NULL;
    if (bad(rows) || bad(vocabulary)) return WF_ERROR_SHAPE;
    for (int64_t row = 0; row < rows; row++)
        if (targets[row] >= vocabulary) return WF_ERROR_SHAPE;
    return for_rows(runtime, CrossEntropy{logits, targets, vocabulary, nats}, rows, runtime->training().cross_entropy);
}

int wf_index_loss(wf_runtime *runtime, const float *dots, const uint16_t *weights, const float *mass,
                  const uint8_t *chosen, int64_t first, int64_t queries, int64_t heads, int64_t entries, int64_t ratio,
                  int32_t rounded, float *loss, uint16_t *grad_dots, float *grad_weights) {
    if (!runtime || !dots || !weights || !mass || !loss || !grad_dots || !grad_weights) return WF_ERROR_NULL;
    if (first < 0 || first > LARGEST || bad(queries) || bad(heads, 1 << 16) || bad(entries) || bad(ratio, 1 << 16))
        return WF_ERROR_SHAPE;
    IndexLoss job = {};
    job.dots = dots, job.weights = weights, job.mass = mass, job.chosen = chosen, job.heads = heads;
    job.num_entries = entries, job.ratio = ratio, job.token = first, job.rounded = rounded != 0;
    job.loss = loss, job.grad_dots = grad_dots, job.grad_weights = grad_weights;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    const int64_t each = (kernels.index_loss_bytes(job) + 63) / 64 * 64;
    uint8_t *scratch = static_cast<uint8_t *>(runtime->scratch(each * runtime->threads()));
    if (!scratch) return WF_ERROR_MEMORY;
    runtime->each((queries + GRAD_TOKENS - 1) / GRAD_TOKENS, [&](int64_t block, int thread) {
        const int64_t begin = block * GRAD_TOKENS;
        kernels.index_loss(job, begin, begin + in_block(queries, block), scratch + each * thread);
    });
    return WF_OK;
}

int wf_combine_rows(wf_runtime *runtime, const uint16_t *rows, int64_t num_rows, const int64_t *index, int64_t count,
                    int64_t each, int64_t dim, const uint16_t *added, uint16_t *out) {
    if (!runtime || !rows || !index || !out) return WF_ERROR_NULL;
    if (bad(num_rows) || bad(count) || bad(each, 1 << 16) || bad(dim)) return WF_ERROR_SHAPE;
    for (int64_t i = 0; i < count * each; i++)
        if (index[i] < 0 || index[i] >= num_rows) return WF_ERROR_SHAPE;
    return for_rows(runtime, Combine{rows, index, added, each, dim, out}, count, runtime->training().combine);
}

int wf_compress(wf_runtime *runtime, const wf_compression *compression, uint16_t *out) {
    if (!runtime || !out) return WF_ERROR_NULL;
    Compression job = {};
    int64_t entries;
    if (const int error = check(compression, job, entries)) return error;
    job.out = out;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    if (!find_entries(runtime, compression, job, entries)) return WF_ERROR_MEMORY;
    runtime->each(entries, [&](int64_t entry, int) { kernels.compress(job, entry, entry + 1); }, 4);
    return WF_OK;
}

int wf_compress_grad(wf_runtime *runtime, const wf_compression *compression, const uint16_t *grad, uint16_t *grad_kv,
                     uint16_t *grad_score, float *grad_ape) {
    if (!runtime || !grad || !grad_kv || !grad_score || !grad_ape) return WF_ERROR_NULL;
    Compression job = {};
    int64_t entries;
    if (const int error = check(compression, job, entries)) return error;
    job.grad = grad, job.grad_kv = grad_kv, job.grad_score = grad_score;
    const TrainingKernels &kernels = runtime->training();
    const wf::Call inside(*runtime);
    if (!find_entries(runtime, compression, job, entries)) return WF_ERROR_MEMORY;
    Sums sums;
    const bool done =
        sum_blocks(*runtime, entries, job.ratio * job.width(), 0, sums,
                   [&](int64_t entry, float *partial, uint8_t *) { kernels.compress_grad(job, entry, partial); });
    if (!done) return WF_ERROR_MEMORY;
    sums.to(grad_ape, 0, job.ratio * job.width());
    int64_t token = 0;
    for (int64_t i = 0; i < compression->sequences; i++) {  // tokens of no complete block
        const int64_t length = compression->lengths[i], whole = length / job.ratio * job.ratio;
        const size_t bytes = size_t(2 * (length - whole) * job.width());
        std::memset(grad_kv + (token + whole) * job.width(), 0, bytes);
        std::memset(grad_score + (token + whole) * job.width(), 0, bytes);
        token += length;
    }
    return WF_OK;
}

}  // extern "C"
