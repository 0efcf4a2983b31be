// Products of FP4 and FP8 matrices with int8 activations (int8.h), cut among the threads as products.h says.
#pragma once

#include "products.h"

namespace wf {

// True if the runtime computes this product in int8: FP4, and FP8 where rows are many. A few rows of FP8 are as fast in
// bfloat16, which memory limits too, and lose nothing there.
bool in_int8(const Runtime &runtime, const Product &product);

// False when there is no memory for scratch. At most 256 products, all of them in int8.
bool multiply_int8(Runtime &runtime, const Product *products, int64_t count, const Ahead &next);

}  // namespace wf
