// Correction for the quantized past: weights that make good, as far as a linear map can, what the
// quantized layers before have done to the inputs.
//
// E. Frantar et al.'s objective is |W Xq - Q Xq|, though the goal is the original's output W X. The
// target of least squares for it is W X Xq' H^-1 = W + W (X - Xq) Xq' H^-1, H = Xq Xq' (Y. Li et
// al., GPTAQ, 2025, arXiv 2504.02692; Y. Arai and Y. Ichikawa, QEP, 2025, arXiv 2504.09629). In
// linears whose output is added to the residual stream, the error R - Rq of that stream at the
// block's input is made good in the same way.
#pragma once

#include <string>

#include "kernels/factorize.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Sums over the same tokens, all divided by the same number of them as the H of the factorisation.
// Each cross sum is of differences: formed from the differences, not by subtracting sums.
struct PastSums {
  const Matrix* input = nullptr;     // [K, K] (X - Xq)' Xq, X [T, K]
  const Matrix* residual = nullptr;  // [N, K] (R - Rq)' Xq, R [T, N]; null: not added to a stream
};

// W + alpha (W input + residual) H^-1; alpha 0..1 is the share that is made good. Throws
// Error(where, ...) when shapes do not fit.
Matrix correct_past(ConstMatrixRef W, const PastSums& sums, const Factorization& factorization,
                    double alpha, const std::string& where);

}  // namespace nibble
