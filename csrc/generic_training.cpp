// Training in plain C++, four floats at a time.
#include "training.h"

namespace wf {
namespace {
struct Plain : Vector<4> {};
}  // namespace

const TrainingKernels generic_training = training_kernels<Plain>();

}  // namespace wf
