// What the files of the C interface share: the runtime behind its handle, checks of arguments.
#pragma once

#include "runtime.h"
#include "rows.h"

namespace wf {

constexpr int64_t LARGEST = int64_t(1) << 31;  // of a dimension: products of two stay inside 64 bits

// WF_OK and the checked form, or an error code.
int check_matrix(const wf_matrix *given, Matrix &matrix);
// `most` rows, 0 .. most, must be there.
int check_rows(const wf_rows *given, int64_t most, Rows &rows);

inline bool bad(int64_t size, int64_t largest = LARGEST) { return size <= 0 || size > largest; }

}  // namespace wf
