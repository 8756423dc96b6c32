
#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "src/quantized/finite_weights.h"
#include "src/quantized/ggml_blocks.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/vector_clones.h"
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
  q.codes = Tensor::uninitialized(Dtype::kU8, {N, K});
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

// A full exponent is NaN or infinity; magnitudes compare as integers do.
NIBBLE_VECTOR_CLONES bool is_finite(const float* x, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7FFFFFFF);
  }
  return largest < 0x7F800000;
}

template <typename T>
T* data_of(Tensor& tensor) {
  return tensor.empty() ? nullptr : reinterpret_cast<T*>(tensor.mutable_bytes().data());
}

// The first block of the row is block b.
void quantize_row(const GgmlScheme& type, GgmlWeights row, GgmlWeights importance, int64_t b,
                  const GgmlOutput& out) {
  if (type.block != kSuperBlock) return quantize_plain_row(type, row, importance, b, out);
  const auto quantize_block = type.scheme.minimum ? quantize_affine : quantize_symmetric;
  for (size_t k = 0; k < row.size(); k += kSuperBlock, ++b) {
    const GgmlWeights part = importance.empty() ? importance : importance.subspan(k, kSuperBlock);
    quantize_block(type, row.subspan(k, kSuperBlock), part, b, out);
  }
}

}  // namespace

QuantizedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type,
                              std::span<const float> importance, const std::string& where) {
  if (W.cols() % type.block != 0) {
    throw Error(where, "rows of " + std::to_string(W.cols()) + " weights are no multiple of " +
                           std::string(type.name) + "'s blocks of " + std::to_string(type.block));
  }
  assert(importance.empty() || std::ssize(importance) == W.cols());
  QuantizedLinear q = allocate(type.scheme, W.rows(), W.cols());
  const GgmlOutput out = {.codes = data_of<uint8_t>(q.codes),
                          .scale = data_of<std::byte>(q.scale.values),
                          .scale_second = data_of<uint16_t>(q.scale.second),
                          .minimum = data_of<std::byte>(q.minimum.values),
                          .minimum_second = data_of<uint16_t>(q.minimum.second)};
  const auto row_of = [&](int64_t n) {
    return GgmlWeights(W.data() + n * W.outerStride(), static_cast<size_t>(W.cols()));
  };
  bool bad = false;  // a row is not finite
#pragma omp parallel for schedule(static) reduction(|| : bad)
  for (int64_t n = 0; n < W.rows(); ++n) {
    if (is_finite(row_of(n).data(), W.cols())) {
      quantize_row(type, row_of(n), importance, n * W.cols() / type.block, out);
    } else {
      bad = true;
    }
  }
  if (bad) check_finite(W, where);
  check(q, where);
  return q;
}

}  // namespace nibble
