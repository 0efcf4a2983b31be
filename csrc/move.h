// Rows on their way to experts and back (model/moe.py): copied to where an expert finds them together, and summed again.
#pragma once

#include <cstring>

#include "lanes.h"

namespace wf {

// out_i = sum_j rows[index[i, j]] (+ added_i), in float32 and rounded once.
struct Combine {
    const uint16_t *rows;
    const int64_t *index;  // [count, each]
    const uint16_t *added;
    int64_t each, dim;
    uint16_t *out;
};

template <class S>
struct MoveKernel {
    using F = typename S::F;
    using V = Lanes<S>;

    static void combine(const Combine &job, int64_t first, int64_t end) {
        for (int64_t i = first; i < end; i++) {
            const int64_t *index = job.index + i * job.each;
            if (job.each == 1 && !job.added) {
                std::memcpy(job.out + i * job.dim, job.rows + *index * job.dim, size_t(2 * job.dim));
                continue;
            }
            V::each(job.dim, [&](int64_t k, int n) __attribute__((always_inline)) {
                F sum = F{};
                for (int64_t j = 0; j < job.each; j++) sum = sum + V::words(job.rows + index[j] * job.dim + k, n);
                if (job.added) sum = sum + V::words(job.added + i * job.dim + k, n);
                V::round(job.out + i * job.dim + k, sum, n);
            });
        }
    }
};

}  // namespace wf
