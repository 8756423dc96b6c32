#include "src/quantized/finite_weights.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {

void check_finite(ConstMatrixRef W, const std::string& where) {
  if (W.allFinite()) return;
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < W.cols(); ++k) {
      if (std::isfinite(W(n, k))) continue;
      throw Error(where,
                  std::string(std::isnan(W(n, k)) ? "NaN" : "infinity") + " at row " +
                      std::to_string(n) + ", column " + std::to_string(k),
                  "is the checkpoint damaged?");
    }
  }
}

}  // namespace nibble
