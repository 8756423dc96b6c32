// What a product with quantized weights must give, in float64, and how far off a kernel may be: for
// tests, and for `nibble bench kernels --check`. Every tolerance follows from what is rounded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Codes and parameters of every value that the scheme allows, scales of both signs.
QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed);

// Where a kernel rounds.
enum class Arithmetic {
  kFloat,              // on the CPU: weights as dequantize() gives them, sums in float in any order
  kScalesAfterSums,    // tensor cores: exact integers or levels in 16 bits, scales in float
  kScalesIntoWeights,  // tensor cores: weights in 16 bits, rounded three times at most
  kIntegers,           // 8-bit activations: exact sums, scales in float
};

struct LinearInputs {
  Dtype type = Dtype::kF32;  // of inputs and outputs: F32, F16, BF16
  Matrix x;                  // [M, K], values of the type
  std::vector<float> bias;   // [N], likewise, or empty
};
// Normally distributed.
LinearInputs random_inputs(Dtype type, int64_t M, int64_t N, int64_t K, bool bias);

struct ExpectedOutputs {
  struct Output {
    int64_t m, n;
    double y, allowed;
  };
  int64_t M = 0, N = 0;
  std::vector<Output> outputs;  // all, row by row, or a sample that has the corners
};
// All outputs of up to 2^25 products, else those of 16 tokens and 96 rows at most.
ExpectedOutputs expected_outputs(const LinearInputs& inputs, const QuantizedLinear& q,
                                 Arithmetic arithmetic);

struct Judgement {
  double max_error = 0;         // largest |got - y|, in root mean squares of y
  double share_of_allowed = 0;  // largest |got - y| / allowed: at most 1
  std::string problem;          // empty: passed; else the first output that is wrong
};
// got [M, N]: what is not expected must still be a finite number.
Judgement judge(const ExpectedOutputs& expected, ConstMatrixRef got);

}  // namespace nibble
