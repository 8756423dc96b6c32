// RMSNorm and LayerNorm of rows, on the calling thread.
#pragma once

#include <cstdint>

#include "src/tensor/matrix.h"

namespace nibble {

// Zhang and Sennrich, 2019, arXiv 1910.07467: y = x / sqrt(mean(x^2) + epsilon) * weight. Each row
// of x is cut into segments of weight.size() columns with a norm of their own (one per head in
// Qwen3's q and k norms). x [T, segments * n], weight [n] -> y, which may be x.
void rms_norm(ConstMatrixRef x, const Vector& weight, float epsilon, MatrixRef y);

// Ba and others, 2016, arXiv 1607.06450: y = (x - mean) / sqrt(variance + epsilon) * weight + bias.
// x [T, n], weight [n], bias [n] or empty -> y, which may be x.
void layer_norm(ConstMatrixRef x, const Vector& weight, const Vector& bias, float epsilon,
                MatrixRef y);

}  // namespace nibble
