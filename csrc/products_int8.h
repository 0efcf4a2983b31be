// Products of FP4 and FP8 matrices with activations in int8 (int8.h), cut among the threads.
#pragma once

#include "products.h"

namespace wf {

// True if the runtime computes this product in int8: with FP4 and FP8, unless the rows of x are so few that bfloat16, which
// loses less, is as fast; where rows may not depend on their batch, all of them.
bool in_int8(const Runtime &runtime, const Product &product);

// False when there is no memory for scratch. At most 256 products, all of them in int8.
bool multiply_int8(Runtime &runtime, const Product *products, int64_t count, const Ahead &next);

}  // namespace wf
