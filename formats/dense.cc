// Plain weights: the codes multiplied out, W = (level - zero) * scale in float with one rounding to
// the dtype. Page: formats/dense.md.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble::dense_format {
namespace {

constexpr int64_t kBlockWeights = 1 << 18;  // 1 MiB of floats at a time and thread

Dtype scale_type(Dtype model_dtype) { return model_dtype; }

std::string refusal(const FormatModule& module) {
  // FP8 and FP4 activations are a choice of the kernel; 8-bit integers are what the model is.
  const Scheme& scheme = scheme_of(module);
  if (scheme.activations && !scheme.activations->is_float) {
    return "plain weights cannot say that activations are quantized";
  }
  if (module.dtype != Dtype::kF16 && module.dtype != Dtype::kBF16 && module.dtype != Dtype::kF32) {
    return "weights are written as F16, BF16 or F32, not " + std::string(dtype_name(module.dtype));
  }
  return {};
}

std::string caution(const FormatModule& /*module*/) { return {}; }

std::vector<TensorInfo> layout(const FormatModule& module) {
  const Shape shape = module.transposed ? Shape{module.K, module.N} : Shape{module.N, module.K};
  return {{module.name + ".weight", module.dtype, shape}};
}

// Rounds W to `dtype`. The first weight in row-major order that is too large is an Error.
Tensor rounded(const QuantizedLinear& q, Dtype dtype, const std::string& where) {
  Tensor result = Tensor::allocate(dtype, {q.N, q.K});
  const std::span<std::byte> bytes = result.mutable_bytes();
  const FloatParameters parameters = float_parameters(q);
  const int64_t rows = std::max<int64_t>(1, kBlockWeights / std::max<int64_t>(q.K, 1));
  const int64_t row_bytes = q.K * dtype_bits(dtype) / 8;
  int64_t overflow = std::numeric_limits<int64_t>::max();
#pragma omp parallel for schedule(static) reduction(min : overflow) if (q.N * q.K > kBlockWeights)
  for (int64_t first = 0; first < q.N; first += rows) {
    Matrix W(std::min(rows, q.N - first), q.K);
    dequantize_rows(q, parameters, first, W);
    const RoundingLoss loss = from_float({W.data(), static_cast<size_t>(W.size())}, dtype,
                                         bytes.subspan(static_cast<size_t>(first * row_bytes),
                                                       static_cast<size_t>(W.rows() * row_bytes)));
    if (loss.overflowed > 0) overflow = std::min(overflow, first * q.K + loss.first_overflow);
  }
  if (overflow != std::numeric_limits<int64_t>::max()) {
    Matrix row(1, q.K);
    dequantize_rows(q, parameters, overflow / q.K, row);
    throw Error(where,
                "weight " + std::to_string(row(0, overflow % q.K)) + " at row " +
                    std::to_string(overflow / q.K) + ", column " + std::to_string(overflow % q.K) +
                    " does not fit in " + std::string(dtype_name(dtype)),
                "write bf16 or f32");
  }
  return result;
}

std::vector<NamedTensor> encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const Tensor weight = rounded(q, module.dtype, module.name);
  return {{module.name + ".weight", module.transposed ? transposed(weight) : weight}};
}

Json config(std::span<const FormatModule> /*modules*/) { return nullptr; }

bool recognizes(const Json& /*config*/) { return false; }

std::vector<std::string> tensors_of(const Checkpoint& /*checkpoint*/,
                                    const std::string& /*module*/) {
  return {};
}

QuantizedLinear decode(const Checkpoint& checkpoint, const std::string& module, int64_t /*N*/,
                       int64_t /*K*/) {
  throw Error(checkpoint.folder().string(), "'" + module + "' is dense: it has no codes");
}

}  // namespace

const Format kFormat = {
    .name = "dense",
    .summary = "weights multiplied out, as large as the original",
    .holds = "any scheme without integer activations, rounded once to the model's type",
    .readers = "everything that reads Hugging Face checkpoints",
    .config_file = {},
    .scale_type = scale_type,
    .refusal = refusal,
    .caution = caution,
    .layout = layout,
    .encode = encode,
    .config = config,
    .recognizes = recognizes,
    .tensors_of = tensors_of,
    .decode = decode,
};

}  // namespace nibble::dense_format
