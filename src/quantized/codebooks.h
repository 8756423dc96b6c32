// Schemes whose levels are codebooks, fitted to the weights they serve, and rounding to them. How
// the levels are found is a solver's business (quantizers/solvers/kmeans.h).
#pragma once

#include <cstdint>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Codes of 1 to 8 bits into codebooks of 2^bits levels, one for `group_size` columns of a row
// (kAll: for the whole row; per_tensor: one altogether), and no other parameters.
Scheme kmeans_scheme(int bits, int64_t group_size = kAll, bool per_tensor = false);

// Row of q.codebooks that weight (n, k) is coded with.
int64_t codebook_index(const QuantizedLinear& q, int64_t n, int64_t k);

// Fills q.codes as round_to_nearest does (src/quantized/range_rule.h) for a scheme that has
// codebooks and no other parameters: the nearest level of each weight, the lower code of two as
// near. W [N, K], finite.
void round_to_codebooks(ConstMatrixRef W, QuantizedLinear& q);

}  // namespace nibble
