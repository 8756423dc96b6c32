// The BLAS that is linked, and its type for sizes.
#pragma once

#include <cblas.h>  // IWYU pragma: export

#include <cstdint>

namespace nibble {

inline blasint blas(int64_t n) { return static_cast<blasint>(n); }

}  // namespace nibble
