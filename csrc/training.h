// What an instruction set provides for training: forward passes that keep float32 parameters, and gradients. The same
// sources compiled for each (hyper_grad.h, ...).
#pragma once

#include "hyper_grad.h"
#include "joint.h"
#include "loss.h"
#include "move.h"
#include "multiply.h"
#include "norm_grad.h"
#include "orthogonal.h"
#include "compress_grad.h"
#include "swiglu.h"

namespace wf {

struct TrainingKernels {
    int64_t (*hyper_bytes)(const HyperGrad &);
    void (*hyper_read)(const HyperGrad &, int64_t first, int64_t count, uint8_t *scratch);
    void (*hyper_read_grad)(const HyperGrad &, int64_t first, int64_t count, float *partial, uint8_t *scratch);
    void (*hyper_return)(const HyperReturn &, int64_t first, int64_t end);
    void (*hyper_return_grad)(const HyperReturn &, int64_t first, int64_t end);
    void (*norm)(const NormRows &, int64_t first, int64_t end);
    void (*norm_grad)(const NormRows &, int64_t first, int64_t end, float *partial, uint8_t *scratch);
    void (*rotate)(const NormRows &, int64_t first, int64_t end);
    void (*swiglu)(const Swiglu &, int64_t first, int64_t end);
    void (*swiglu_grad)(const Swiglu &, int64_t first, int64_t end);
    void (*compress)(const Compression &, int64_t first, int64_t end);
    void (*compress_grad)(const Compression &, int64_t entry, float *partial);
    int64_t (*joint_bytes)(const Joint &);
    void (*joint)(const Joint &, int64_t chunk, uint8_t *scratch);
    void (*joint_grad)(const Joint &, int64_t chunk, int64_t token, float *grad_kv, float *grad_entries,
                       uint8_t *scratch);
    void (*joint_join)(const float *const *rows, int64_t count, int64_t dim, uint16_t *out);
    void (*cross_entropy)(const CrossEntropy &, int64_t first, int64_t end);
    int64_t (*index_loss_bytes)(const IndexLoss &);
    void (*index_loss)(const IndexLoss &, int64_t first, int64_t end, uint8_t *scratch);
    void (*combine)(const Combine &, int64_t first, int64_t end);
    int64_t (*multiply_bytes)();
    void (*multiply)(const Multiply &, int64_t row, int64_t rows, int64_t column, int64_t columns, uint8_t *scratch);
    int64_t (*orthogonal_bytes)(const Orthogonal &);
    void (*orthogonal)(const Orthogonal &, uint8_t *scratch);
};

template <class S>
constexpr TrainingKernels training_kernels() {
    return {
        HyperKernel<S>::bytes,        HyperKernel<S>::read,       HyperKernel<S>::read_grad,  HyperKernel<S>::give,
        HyperKernel<S>::give_grad,    NormKernel<S>::forward,     NormKernel<S>::grad,        NormKernel<S>::rotate,
        SwigluKernel<S>::forward,     SwigluKernel<S>::grad,      CompressKernel<S>::forward, CompressKernel<S>::grad,
        JointKernel<S>::bytes,        JointKernel<S>::forward,    JointKernel<S>::grad,       JointKernel<S>::join,
        LossKernel<S>::cross_entropy, LossKernel<S>::index_bytes, LossKernel<S>::index,       MoveKernel<S>::combine,
        MultiplyKernel<S>::bytes,     MultiplyKernel<S>::run,     OrthogonalKernel<S>::bytes, OrthogonalKernel<S>::run};
}

extern const TrainingKernels generic_training;
#if defined(WF_X86)
extern const TrainingKernels avx2_training, avx512_training, avx512bf16_training;
#elif defined(WF_NEON)
extern const TrainingKernels neon_training, neonbf16_training;
#endif

}  // namespace wf
