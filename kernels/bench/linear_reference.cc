#include "kernels/bench/linear_reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/packing/packing.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kMostProducts = int64_t{1} << 25;
constexpr int64_t kSampleTokens = 16;
constexpr int64_t kSampleRows = 96;

Tensor random_floats(Dtype dtype, int64_t count, float low, float high, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  Tensor result = Tensor::allocate(dtype, {count});
  from_float(values, dtype, result.mutable_bytes());
  return result;
}

Tensor random_bytes(Dtype dtype, Shape shape, int low, int high, std::mt19937& random) {
  std::uniform_int_distribution<int> uniform(low, high);
  Tensor result = Tensor::allocate(dtype, std::move(shape));
  for (std::byte& value : result.mutable_bytes()) value = static_cast<std::byte>(uniform(random));
  return result;
}

// Largest relative error of rounding to the type.
double half_ulp(Dtype type) {
  return type == Dtype::kF16 ? 0x1p-11 : type == Dtype::kBF16 ? 0x1p-8 : 0x1p-24;
}

// `most` of 0 .. count - 1 at equal distances, both ends among them.
std::vector<int64_t> spread(int64_t count, int64_t most) {
  const int64_t chosen = std::min(count, most);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < chosen; ++i) {
    result.push_back(chosen == 1 ? 0 : i * (count - 1) / (chosen - 1));
  }
  return result;
}

// `each` elements for every one of the rows.
Tensor rows_of(const Tensor& tensor, std::span<const int64_t> rows, int64_t each) {
  Tensor result = Tensor::allocate(tensor.dtype(), {std::ssize(rows), each});
  const size_t bytes = result.bytes().size() / rows.size();
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(result.mutable_bytes().data() + i * bytes,
                tensor.bytes().data() + static_cast<size_t>(rows[i]) * bytes, bytes);
  }
  return result;
}

// A layer of some of the rows of q: those of 8-bit activations have parameters by row, or one.
QuantizedLinear take_rows(const QuantizedLinear& q, std::span<const int64_t> rows) {
  QuantizedLinear result = q;
  result.N = std::ssize(rows);
  result.codes = rows_of(q.codes, rows, q.K);
  if (q.scheme.blocking.rows != 1) return result;
  const int64_t groups = group_count(q.scheme.blocking, q.K);
  result.scale.values = rows_of(q.scale.values, rows, groups);
  if (!q.zero.values.empty()) result.zero.values = rows_of(q.zero.values, rows, groups);
  if (q.scale.second.elements() == q.N && !q.scale.second.empty()) {
    result.scale.second = rows_of(q.scale.second, rows, 1);
  }
  return result;
}

// A weight, and the size of what a kernel adds up to make it: |code| scale and |zero| scale, with
// codes and zero points relative to the middle of the grid.
struct Weight {
  double value;
  double size;
};

class WeightRows {
 public:
  WeightRows(const QuantizedLinear& q, Arithmetic arithmetic)
      : q_(q),
        parameters_(float_parameters(q)),
        as_float_(arithmetic == Arithmetic::kFloat),
        centre_(q.scheme.grid.kind != Grid::Kind::kInteger || q.scheme.grid.lowest < 0
                    ? 0.
                    : 1 << (q.scheme.grid.bits - 1)) {}

  // Of row n, [K].
  std::vector<Weight> row(int64_t n) const {
    std::vector<Weight> weights(static_cast<size_t>(q_.K));
    if (as_float_) {
      Matrix floats(1, q_.K);
      dequantize_rows(q_, parameters_, n, floats);
      for (int64_t k = 0; k < q_.K; ++k) weights[k] = {floats(0, k), std::abs(floats(0, k))};
      return weights;
    }
    for (int64_t k = 0; k < q_.K; ++k) {
      const int64_t block = block_index(q_, n, k);
      const double scale = parameters_.scale[block];
      const double code = level(q_, n, k) - centre_;
      const double zero = q_.scheme.zero ? parameters_.zero[block] - centre_ : 0.;
      weights[k] = {(code - zero) * scale, (std::abs(code) + std::abs(zero)) * std::abs(scale)};
    }
    return weights;
  }

 private:
  const QuantizedLinear& q_;
  FloatParameters parameters_;
  bool as_float_;
  double centre_;
};

// Relative to the sizes of all terms: rounding them, the weights and their sums.
//   kFloat   K products and sums, 2^-24 each
//   others   the terms are added in float, at most K / 16 + G + 64 roundings on the way of each,
//            and a tensor core may cut off instead of rounding: 2^-23 each. Levels of a table are
//            rounded to 16 bits; scales that go into the weights cost three roundings, of the
//            scale, of zero times scale and of the result; a dense matrix's weights, one.
double error_of_terms(const QuantizedLinear& q, Dtype type, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kFloat) return static_cast<double>(q.K + 1) * 0x1p-24;
  const double roundings =
      static_cast<double>(divide_up(q.K, 16) + block_count(q.scheme.blocking, 1, q.K) + 64);
  double error = roundings * 0x1p-23;
  if (q.scheme.grid.kind == Grid::Kind::kTable) error += half_ulp(type);
  if (arithmetic == Arithmetic::kScalesIntoWeights) error += 3. * half_ulp(type);
  return error;
}

// Exact sums: the product of the scales, that with the sum, the bias and the output are rounded;
// 2^-25: the smallest halves of F16.
void expect_integers(const LinearInputs& inputs, const QuantizedLinear& q,
                     std::span<const int64_t> tokens, std::span<const int64_t> rows,
                     ExpectedOutputs& expected) {
  // One scale for all of x needs all of it.
  const bool whole = q.scheme.activations->dynamic && !q.scheme.activations->per_token;
  Matrix x(whole ? inputs.x.rows() : std::ssize(tokens), inputs.x.cols());
  for (int64_t t = 0; t < x.rows(); ++t) x.row(t) = inputs.x.row(whole ? t : tokens[t]);
  const Matrix y = quantized_matmul_reference(x, take_rows(q, rows));
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (size_t r = 0; r < rows.size(); ++r) {
      const double product =
          y(whole ? tokens[t] : static_cast<int64_t>(t), static_cast<int64_t>(r));
      const double sum = product + (inputs.bias.empty() ? 0. : inputs.bias[rows[r]]);
      const double allowed =
          std::abs(product) * 4 * 0x1p-24 + std::abs(sum) * (half_ulp(inputs.type) + 0x1p-24);
      expected.outputs.push_back({tokens[t], rows[r], sum, allowed + 0x1p-25});
    }
  }
}

void expect_floats(const LinearInputs& inputs, const QuantizedLinear& q, Arithmetic arithmetic,
                   std::span<const int64_t> tokens, std::span<const int64_t> rows,
                   ExpectedOutputs& expected) {
  const WeightRows weights(q, arithmetic);
  const double error = error_of_terms(q, inputs.type, arithmetic);
  const auto width = static_cast<int64_t>(rows.size());
  expected.outputs.resize(tokens.size() * rows.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t r = 0; r < width; ++r) {
    const std::vector<Weight> row = weights.row(rows[r]);
    for (size_t t = 0; t < tokens.size(); ++t) {
      double sum = inputs.bias.empty() ? 0. : inputs.bias[rows[r]];
      double size = std::abs(sum);
      for (int64_t k = 0; k < q.K; ++k) {
        const double x = inputs.x(tokens[t], k);
        sum += x * row[k].value;
        size += std::abs(x) * row[k].size;
      }
      const double rounding = half_ulp(inputs.type) * std::abs(sum) * (1. + 0x1p-10);
      expected.outputs[t * static_cast<size_t>(width) + static_cast<size_t>(r)] = {
          tokens[t], rows[r], sum, error * size + rounding};
    }
  }
}

std::string place(int64_t m, int64_t n) {
  return "y[" + std::to_string(m) + ", " + std::to_string(n) + "] = ";
}

}  // namespace

QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 random(seed);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = random_bytes(Dtype::kU8, {N, K}, 0, (1 << scheme.grid.bits) - 1, random);
  const int64_t blocks = block_count(scheme.blocking, N, K);
  if (is_progressive(scheme)) {
    q.scale.values = random_bytes(Dtype::kI8, {blocks}, 1, 8, random);
  } else if (scheme.scale->second) {
    q.scale.values = random_bytes(Dtype::kU8, {blocks}, 0, 255, random);
  } else {
    q.scale.values = random_floats(scheme.scale->type, blocks, -0.1F, 1.F, random);
  }
  if (scheme.scale->second) {
    q.scale.second =
        random_floats(scheme.scale->second->type, second_count(*scheme.scale->second, blocks, N),
                      0.5F, 1.F, random);
    if (scheme.scale->second->has_offset) q.scale.offset = 0.75F;
  }
  if (scheme.zero) {
    q.zero.values =
        random_bytes(scheme.zero->type, {blocks}, 0, (1 << scheme.grid.bits) - 1, random);
  }
  return q;
}

LinearInputs random_inputs(Dtype type, int64_t M, int64_t N, int64_t K, bool bias) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  LinearInputs inputs{type, Matrix(M, K), {}};
  for (int64_t i = 0; i < inputs.x.size(); ++i) {
    inputs.x.data()[i] = round_to(normal(random), type);
  }
  for (int64_t n = 0; bias && n < N; ++n) inputs.bias.push_back(round_to(normal(random), type));
  return inputs;
}

ExpectedOutputs expected_outputs(const LinearInputs& inputs, const QuantizedLinear& q,
                                 Arithmetic arithmetic) {
  ExpectedOutputs expected{inputs.x.rows(), q.N, {}};
  const bool all = expected.M * q.N * q.K <= kMostProducts;
  const std::vector<int64_t> tokens = spread(expected.M, all ? expected.M : kSampleTokens);
  const std::vector<int64_t> rows = spread(q.N, all ? q.N : kSampleRows);
  if (arithmetic == Arithmetic::kIntegers) {
    expect_integers(inputs, q, tokens, rows, expected);
  } else {
    expect_floats(inputs, q, arithmetic, tokens, rows, expected);
  }
  return expected;
}

Judgement judge(const ExpectedOutputs& expected, ConstMatrixRef got) {
  Judgement judgement;
  double squares = 0;
  for (const ExpectedOutputs::Output& output : expected.outputs) {
    const double value = got(output.m, output.n);
    const double error = std::abs(value - output.y);
    squares += output.y * output.y;
    judgement.max_error = std::max(judgement.max_error, error);
    judgement.share_of_allowed = std::max(judgement.share_of_allowed, error / output.allowed);
    if (error <= output.allowed || !judgement.problem.empty()) continue;
    judgement.problem = place(output.m, output.n) + std::to_string(value) + ", expected " +
                        std::to_string(output.y) + " +- " + std::to_string(output.allowed);
  }
  judgement.max_error /=
      std::sqrt(squares / static_cast<double>(std::max<size_t>(1, expected.outputs.size())));
  for (int64_t m = 0; m < expected.M; ++m) {
    for (int64_t n = 0; n < expected.N; ++n) {
      if (std::isfinite(got(m, n))) continue;
      judgement.max_error = std::numeric_limits<double>::infinity();
      judgement.share_of_allowed = judgement.max_error;
      if (judgement.problem.empty()) {
        judgement.problem = place(m, n) + std::to_string(got(m, n)) + ", expected a finite number";
      }
    }
  }
  return judgement;
}

}  // namespace nibble
