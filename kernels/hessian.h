// Sums over tokens of the inputs of a linear layer: what calibration keeps of its activations.
//
// Float accumulation in the order of the calls. The work is cut into tiles whose shape depends on
// the problem alone, each one single-threaded BLAS call, so that the sums have the same bits for
// any number of threads. Divided by the number of tokens, X'X is the Hessian of the papers (up to a
// factor of two) of |X (W - Q)'|^2 / T.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/tensor/matrix.h"

namespace nibble {

// The upper triangle, with the diagonal, of sum [K, K] += X'X, X [T, K]. The rest is not touched.
void add_gram(ConstMatrixRef X, MatrixRef sum);

// sum [K0, K] += X0' X, X0 [T, K0], X [T, K].
void add_cross(ConstMatrixRef X0, ConstMatrixRef X, MatrixRef sum);

// Copies the upper triangle of H [K, K] onto the lower one.
void mirror_upper(MatrixRef H);

// tr(E H E'), the error of the outputs that errors E [M, K] of weights make, per token. Only the
// upper triangle of H [K, K] is read. Products in float, their sums in double.
double quadratic_form(ConstMatrixRef E, ConstMatrixRef H);

struct ColumnSums {
  std::vector<double> absolute;  // [K] sum of |x|
  std::vector<float> largest;    // [K] max of |x|
};

// X [T, K]; empty `sums` are sized. Throws Error(where, ...) naming the first token and column that
// hold NaN or infinity; tokens are counted from first_token.
void add_columns(ConstMatrixRef X, int64_t first_token, const std::string& where, ColumnSums& sums);

}  // namespace nibble
