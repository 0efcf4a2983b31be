// Attention and indexing in plain C++, four floats at a time.
#include "attention.h"

namespace wf {
namespace {
struct Plain : Vector<4> {};
}  // namespace

const AttentionKernels generic_attention = attention_kernels<Plain>();

}  // namespace wf
