#include "src/quantized/ggml_fit.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <utility>

#include "src/quantized/ggml_blocks.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// A layer of the type with room for everything.
QuantizedLinear allocate(const Scheme& scheme, int64_t N, int64_t K) {
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = Tensor::allocate(Dtype::kU8, {N, K});
  const int64_t groups = group_count(scheme.blocking, K);
  for (const auto& [parameter, values] :
       {std::pair{&scheme.scale, &q.scale}, std::pair{&scheme.minimum, &q.minimum}}) {
    if (!*parameter) continue;
    values->values = Tensor::allocate((*parameter)->type, {N, groups});
    if ((*parameter)->second) {
      values->second = Tensor::allocate(Dtype::kF16, {N * groups / (*parameter)->second->block});
    }
  }
  return q;
}

void check_finite(ConstMatrixRef W, const std::string& where) {
  int64_t first = W.rows();
#pragma omp parallel for schedule(static) reduction(min : first)
  for (int64_t n = 0; n < W.rows(); ++n) {
    if (!W.row(n).allFinite()) first = std::min(first, n);
  }
  if (first == W.rows()) return;
  int64_t k = 0;
  while (std::isfinite(W(first, k))) ++k;
  throw Error(where,
              std::string(std::isnan(W(first, k)) ? "NaN" : "infinity") + " at row " +
                  std::to_string(first) + ", column " + std::to_string(k),
              "is the checkpoint damaged?");
}

template <typename T>
T* data_of(Tensor& tensor) {
  return tensor.empty() ? nullptr : reinterpret_cast<T*>(tensor.mutable_bytes().data());
}

}  // namespace

RoundedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type,
                            std::span<const float> importance, const std::string& where) {
  if (W.cols() % type.block != 0) {
    throw Error(where, "rows of " + std::to_string(W.cols()) + " weights are no multiple of " +
                           std::string(type.name) + "'s blocks of " + std::to_string(type.block));
  }
  check_finite(W, where);
  assert(importance.empty() || std::ssize(importance) == W.cols());
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q = allocate(type.scheme, W.rows(), W.cols());
  const GgmlOutput out = {.codes = data_of<uint8_t>(q.codes),
                          .scale = data_of<std::byte>(q.scale.values),
                          .scale_second = data_of<uint16_t>(q.scale.second),
                          .minimum = data_of<std::byte>(q.minimum.values),
                          .minimum_second = data_of<uint16_t>(q.minimum.second)};
  const int64_t row_blocks = W.cols() / type.block;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    const GgmlWeights row(W.data() + n * W.outerStride(), static_cast<size_t>(W.cols()));
    if (type.block != kSuperBlock) {
      quantize_plain_row(type, row, importance, n * row_blocks, out);
      continue;
    }
    for (int64_t i = 0; i < row_blocks; ++i) {
      const auto k = static_cast<size_t>(i * kSuperBlock);
      const GgmlWeights part = importance.empty() ? importance : importance.subspan(k, kSuperBlock);
      const auto quantize_block = type.scheme.minimum ? quantize_affine : quantize_symmetric;
      quantize_block(type, row.subspan(k, kSuperBlock), part, n * row_blocks + i, out);
    }
  }
  check(q, where);
  rounded.weight_error = relative_error(W, q);
  return rounded;
}

}  // namespace nibble
