#include "kernels/row_paths.h"

#include "src/tensor/cpu_features.h"

namespace nibble {

const RowPath& row_path() {
  if (cpu_features().avx512) return kAvx512Rows;
  if (cpu_features().avx2) return kAvx2Rows;
  return kScalarRows;
}

}  // namespace nibble
