#include "src/quantized/llm_int8.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr float kSteps = 127.F;

void check_in_f16(ConstMatrixRef W, const std::string& where) {
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t k = 0; k < W.cols(); ++k) {
      if (std::isfinite(round_to(W(n, k), Dtype::kF16))) continue;
      throw Error(where,
                  std::to_string(W(n, k)) + " at row " + std::to_string(n) + ", column " +
                      std::to_string(k) + " is no number of F16, through which LLM.int8 goes",
                  "choose another scheme");
    }
  }
}

// codes [K] of weights [K]; returns SCB.
float round_row(std::span<const float> weights, std::span<uint8_t> codes) {
  std::vector<float> halves(weights.begin(), weights.end());
  for (float& w : halves) w = round_to(w, Dtype::kF16);
  float largest = 0.F;
  for (const float w : halves) largest = std::max(largest, std::fabs(w));
  const float factor = largest == 0.F ? 0.F : 1.F / largest * kSteps;
  for (size_t k = 0; k < halves.size(); ++k) {
    codes[k] = static_cast<uint8_t>(std::nearbyint(halves[k] * factor) + 128.F);
  }
  return largest;
}

}  // namespace

Scheme llm_int8_scheme() {
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF32);
  scheme.scale->second = SecondLevel{.type = Dtype::kF32, .block = kAll};
  return scheme;
}

bool is_llm_int8(const Scheme& scheme) { return scheme == llm_int8_scheme(); }

RoundedLinear quantize_llm_int8(ConstMatrixRef W, const std::string& where) {
  check_in_f16(W, where);
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q;
  q.scheme = llm_int8_scheme();
  q.N = W.rows();
  q.K = W.cols();
  q.codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  q.scale.values = Tensor::allocate(Dtype::kF32, {q.N, 1});
  q.scale.second = Tensor::copy_of(Dtype::kF32, {1}, std::span<const float>(&kOneOf127, 1));
  const auto K = static_cast<size_t>(q.K);
  const auto codes = q.codes.mutable_values<uint8_t>();
  const auto scales = q.scale.values.mutable_values<float>();
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < q.N; ++n) {
    const auto row = static_cast<size_t>(n);
    scales[row] = round_row({W.row(n).data(), K}, codes.subspan(row * K, K));
  }
  return rounded;
}

}  // namespace nibble
