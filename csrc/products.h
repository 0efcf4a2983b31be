// Several products at once, cut evenly among the threads. Few rows of x: each row of a weight is decoded in registers, and
// the rows of all matrices stand in one line, cut by bytes. Many rows: tiles of the weights serve them all (gemm.h).
#pragma once

#include <algorithm>
#include <initializer_list>

#include "runtime.h"

namespace wf {

// y = x W^T for x bfloat16 [rows, columns], rows `stride` apart; y float32 or bfloat16 [rows, weight rows], rows
// `y_stride` apart. With `x_fp8`, x goes through e4m3 first.
struct Product {
    Matrix weight;
    const uint16_t *x;
    int64_t rows, stride;
    bool x_fp8;
    float *wide;  // one of the two is null
    uint16_t *rounded;
    int64_t y_stride;
};

constexpr int64_t MOST_PRODUCTS = 256;  // of one pass

// True if both multiply the same rows of x.
inline bool same_rows(const Product &a, const Product &b) {
    return a.x == b.x && a.rows == b.rows && a.stride == b.stride && a.weight.columns == b.weight.columns;
}

// How many parts the threads take these bytes of weights in: of `part` bytes, but one for each thread and at most 16.
inline int64_t parts_of(int64_t bytes, int64_t part, int64_t threads) {
    return std::clamp(bytes / part, threads, 16 * threads);
}

// What will be read after some products, for threads that wait (runtime.h).
class Ahead {
  public:
    Ahead(std::initializer_list<const Matrix *> matrices = {}) {
        for (const Matrix *matrix : matrices)
            if (count_ < Threads::MOST_RANGES) own_[count_++] = {matrix->codes, matrix->rows * matrix->row_bytes()};
    }
    Ahead(const wf_range *ranges, int64_t count) : given_(ranges), count_(count) {}
    void tell(Runtime &runtime) const { runtime.expect(given_ ? given_ : own_, count_); }

  private:
    wf_range own_[Threads::MOST_RANGES];
    const wf_range *given_ = nullptr;
    int64_t count_ = 0;
};

// False when there is no memory for scratch. Products over the same x stand next to each other where they can.
bool multiply(Runtime &runtime, const Product *products, int64_t count, const Ahead &next = {});

}  // namespace wf
