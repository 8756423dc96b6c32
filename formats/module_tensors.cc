#include "formats/module_tensors.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr std::string_view kOutputHead = "lm_head";
constexpr int64_t kTransposeTile = 64;  // elements: 64 x 64 of 4 bytes are 16 KiB, half of a cache

template <typename T>
void transpose(std::span<const T> in, int64_t rows, int64_t columns, std::span<T> out) {
#pragma omp parallel for schedule(static) if (rows * columns > 1 << 18)
  for (int64_t first = 0; first < columns; first += kTransposeTile) {
    const int64_t last = std::min(first + kTransposeTile, columns);
    for (int64_t top = 0; top < rows; top += kTransposeTile) {
      const int64_t bottom = std::min(top + kTransposeTile, rows);
      for (int64_t c = first; c < last; ++c) {
        for (int64_t r = top; r < bottom; ++r) out[c * rows + r] = in[r * columns + c];
      }
    }
  }
}

template <typename T>
void transpose(const Tensor& in, Tensor& out) {
  transpose(in.values<T>(), in.shape()[0], in.shape()[1], out.mutable_values<T>());
}

std::string dtype_names(std::initializer_list<Dtype> dtypes) {
  std::string names;
  for (const Dtype dtype : dtypes) {
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  return names;
}

}  // namespace

std::string where_of(const Checkpoint& checkpoint, const std::string& tensor) {
  return tensor_place(checkpoint.info(tensor).file.string(), tensor);
}

std::string where_of_config(const Checkpoint& checkpoint) {
  return checkpoint.folder().string() + ": quantization_config";
}

Tensor checked_tensor(const Checkpoint& checkpoint, const std::string& name,
                      std::initializer_list<Dtype> dtypes, const Shape& shape) {
  const TensorInfo& info = checkpoint.info(name).info;
  if (std::find(dtypes.begin(), dtypes.end(), info.dtype) == dtypes.end()) {
    throw Error(where_of(checkpoint, name),
                std::string(dtype_name(info.dtype)) + ", expected " + dtype_names(dtypes));
  }
  if (info.shape != shape) {
    throw Error(where_of(checkpoint, name),
                "shape " + to_string(info.shape) + ", expected " + to_string(shape),
                "do config.json and the quantization config belong to these weights?");
  }
  return checkpoint.tensor(name);
}

Tensor checked_scalar(const Checkpoint& checkpoint, const std::string& name,
                      std::initializer_list<Dtype> dtypes) {
  const bool is_scalar = checkpoint.info(name).info.shape.empty();
  return reshaped(checked_tensor(checkpoint, name, dtypes, is_scalar ? Shape{} : Shape{1}), {1});
}

std::vector<std::string> present_tensors(const Checkpoint& checkpoint, const std::string& module,
                                         std::initializer_list<std::string_view> required,
                                         std::initializer_list<std::string_view> optional) {
  std::vector<std::string> present;
  std::string missing;
  for (const std::string_view suffix : required) {
    const std::string name = module + "." + std::string(suffix);
    if (checkpoint.has(name)) {
      present.push_back(name);
    } else if (missing.empty()) {
      missing = name;
    }
  }
  if (present.empty()) return {};
  if (!missing.empty()) {
    throw Error(where_of(checkpoint, present.front()), "'" + missing + "' is missing beside it",
                "incomplete download or conversion?");
  }
  if (checkpoint.has(module + ".weight")) {
    throw Error(where_of(checkpoint, module + ".weight"),
                "'" + present.front() + "' is there too: dense or quantized?");
  }
  for (const std::string_view suffix : optional) {
    const std::string name = module + "." + std::string(suffix);
    if (checkpoint.has(name)) present.push_back(name);
  }
  return present;
}

std::vector<std::string> tensors_with_weight(const Checkpoint& checkpoint,
                                             const std::string& module,
                                             std::initializer_list<Dtype> dtypes,
                                             std::initializer_list<std::string_view> others) {
  const std::string weight = module + ".weight";
  if (!checkpoint.has(weight)) return {};
  const Dtype dtype = checkpoint.info(weight).info.dtype;
  if (std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) return {};
  std::vector<std::string> names = {weight};
  for (const std::string_view suffix : others) {
    const std::string name = module + "." + std::string(suffix);
    if (checkpoint.has(name)) names.push_back(name);
  }
  return names;
}

std::vector<std::string> left_out(std::span<const FormatModule> modules) {
  std::vector<std::string> names;
  for (const FormatModule& module : modules) {
    if (!module.scheme) names.push_back(module.name);
  }
  const bool has_head =
      std::ranges::find(modules, kOutputHead, &FormatModule::name) != modules.end();
  if (!has_head) names.emplace_back(kOutputHead);
  return names;
}

Tensor transposed(const Tensor& tensor) {
  Tensor result = Tensor::allocate(tensor.dtype(), {tensor.shape()[1], tensor.shape()[0]});
  switch (dtype_bits(tensor.dtype())) {
    case 8:
      transpose<uint8_t>(tensor, result);
      break;
    case 16:
      transpose<uint16_t>(tensor, result);
      break;
    case 32:
      transpose<uint32_t>(tensor, result);
      break;
    default:
      transpose<uint64_t>(tensor, result);
  }
  return result;
}

Tensor reshaped(const Tensor& tensor, Shape shape) {
  return reinterpreted(tensor, tensor.dtype(), std::move(shape));
}

Tensor reinterpreted(const Tensor& tensor, Dtype dtype, Shape shape) {
  check_same_bytes(static_cast<size_t>(byte_count(dtype, shape)), tensor.bytes().size());
  return Tensor::borrow({dtype, std::move(shape), tensor.bytes(), Device::kCpu},
                        std::make_shared<Tensor>(tensor));
}

Tensor with_columns(const Tensor& tensor, int64_t columns) {
  const int64_t rows = tensor.shape()[0];
  const int64_t width = dtype_bits(tensor.dtype()) / 8;
  const int64_t from = tensor.shape()[1] * width;
  const int64_t to = columns * width;
  Tensor result = Tensor::allocate(tensor.dtype(), {rows, columns});
  for (int64_t r = 0; r < rows; ++r) {
    std::ranges::copy(tensor.bytes().subspan(r * from, std::min(from, to)),
                      result.mutable_bytes().subspan(r * to).begin());
  }
  return result;
}

const Scheme& scheme_of(const FormatModule& module) {
  if (!module.scheme) throw Error(module.name, "has no scheme: it is not to be quantized");
  return *module.scheme;
}

Dtype scale_type_of(const FormatModule& module) {
  const std::optional<Parameter>& scale = scheme_of(module).scale;
  if (!scale) throw Error(module.name, "has a scheme without scales");
  return scale->type;
}

std::string integer_refusal(const FormatModule& module, bool per_tensor) {
  const Scheme& scheme = scheme_of(module);
  if (scheme.grid.kind != Grid::Kind::kInteger) {
    return "it holds integers, not " + describe(scheme);
  }
  if (scheme.activations) return "it has no place for quantized activations";
  if (scheme.minimum) return "it has zero points, not minima";
  const bool one_scale = scheme.blocking == Blocking{.rows = kAll, .columns = kAll};
  if (scheme.blocking.flattened || (scheme.blocking.rows != 1 && !(per_tensor && one_scale))) {
    return "it holds groups along rows, not " + describe(scheme);
  }
  if (!scheme.scale) return "it needs a scale";
  const auto second = [](const std::optional<Parameter>& p) { return p && p->second; };
  if (second(scheme.scale) || second(scheme.zero)) return "it has no second level of scales";
  if (!is_float(scheme.scale->type) ||
      scheme != integer_scheme(scheme.grid.bits, scheme.blocking.columns, scheme.symmetric(),
                               scheme.scale->type, one_scale)) {
    return "it holds integers with scales and zero points 0 to 2^bits - 1 only";
  }
  const int64_t columns = columns_of_group(module);
  if (module.K % columns != 0) {
    return "K = " + std::to_string(module.K) + " is not a multiple of the group size " +
           std::to_string(columns);
  }
  return {};
}

int64_t columns_of_group(const FormatModule& module) {
  const int64_t columns = scheme_of(module).blocking.columns;
  return columns == kAll ? module.K : columns;
}

void check_announced(const FormatModule& module, const QuantizedLinear& q) {
  std::string problem;
  if (q.N != module.N || q.K != module.K) {
    problem = to_string({q.N, q.K}) + " weights, " + to_string({module.N, module.K}) + " expected";
  } else if (q.scheme != scheme_of(module)) {
    problem = describe(q.scheme) + ", " + describe(scheme_of(module)) + " expected";
  } else if (!q.group_of_column.empty() && !module.has_column_groups) {
    problem = "column groups that were not planned";
  }
  if (!problem.empty()) throw Error(module.name, problem, "the plan and the result disagree");
}

std::vector<int32_t> column_groups(const Checkpoint& checkpoint, const std::string& name, int64_t K,
                                   int64_t columns, int64_t groups) {
  const Tensor tensor = checked_tensor(checkpoint, name, {Dtype::kI32}, {K});
  const std::span<const int32_t> values = tensor.values<int32_t>();
  bool in_order = true;
  for (int64_t k = 0; k < K; ++k) {
    if (values[k] < 0 || values[k] >= groups) {
      throw Error(where_of(checkpoint, name), "column " + std::to_string(k) + " is in group " +
                                                  std::to_string(values[k]) + ", expected 0 to " +
                                                  std::to_string(groups - 1));
    }
    in_order = in_order && values[k] == k / columns;
  }
  if (in_order) return {};
  return {values.begin(), values.end()};
}

Tensor column_group_tensor(const QuantizedLinear& q, int64_t columns) {
  Tensor tensor = Tensor::allocate(Dtype::kI32, {q.K});
  const std::span<int32_t> values = tensor.mutable_values<int32_t>();
  for (int64_t k = 0; k < q.K; ++k) {
    values[k] = q.group_of_column.empty() ? static_cast<int32_t>(k / columns)
                                          : q.group_of_column[static_cast<size_t>(k)];
  }
  return tensor;
}

}  // namespace nibble
