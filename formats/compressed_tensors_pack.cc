// compressed-tensors, member "pack-quantized": integers, several to a word. Page:
// formats/compressed_tensors.md.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/compressed_tensors.h"
#include "formats/format.h"
#include "formats/module_tensors.h"
#include "formats/packing/compressed_tensors.h"
#include "formats/packing/packing.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

bool supported_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

bool per_tensor(const Scheme& scheme) { return scheme.blocking.rows == kAll; }

std::string pack_refusal(const FormatModule& module) {
  const Scheme& scheme = scheme_of(module);
  if (std::string reason = integer_refusal(module, true); !reason.empty()) return reason;
  if (!supported_bits(scheme.grid.bits)) return "it holds 2, 3, 4 and 8 bits";
  if (per_tensor(scheme) && !scheme.symmetric()) return "it packs no zero point of a whole tensor";
  const Dtype type = scale_type_of(module);
  if (type != Dtype::kF16 && type != Dtype::kBF16 && type != Dtype::kF32) {
    return "scales are F16, BF16 or F32, not " + std::string(dtype_name(type));
  }
  return {};
}

// ---- tensors ------------------------------------------------------------------------------------

// Rows and columns of weight_scale.
Shape pack_scale_shape(const FormatModule& module) {
  if (per_tensor(scheme_of(module))) return {1};
  return {module.N, module.K / columns_of_group(module)};
}

std::vector<TensorInfo> pack_layout(const FormatModule& module) {
  const auto [name, N, K] = std::tie(module.name, module.N, module.K);
  const int bits = scheme_of(module).grid.bits;
  std::vector<TensorInfo> tensors = {
      {name + ".weight_packed", Dtype::kI32, {N, divide_up(K * bits, 32)}},
      {name + ".weight_scale", scale_type_of(module), pack_scale_shape(module)},
      {name + ".weight_shape", Dtype::kI64, {2}}};
  if (!scheme_of(module).symmetric()) {
    const int64_t groups = K / columns_of_group(module);
    tensors.push_back(
        {name + ".weight_zero_point", Dtype::kI32, {divide_up(N * bits, 32), groups}});
  }
  if (module.has_column_groups) tensors.push_back({name + ".weight_g_idx", Dtype::kI32, {K}});
  return tensors;
}

// Codes as they are: ours are the unsigned values that the format stores, with zero points too.
std::vector<NamedTensor> pack_encode(const FormatModule& module, const QuantizedLinear& q) {
  check_announced(module, q);
  const std::vector<TensorInfo> infos = pack_layout(module);
  const std::array<int64_t, 2> shape = {q.N, q.K};
  const int64_t groups = module.K / columns_of_group(module);
  std::vector<NamedTensor> result;
  const auto add = [&](Tensor tensor) {
    result.push_back({infos[result.size()].name, std::move(tensor)});
  };
  with_bits(q.scheme.grid.bits, [&](auto bits) {
    using Weights = CompressedTensorsWeights<bits>;
    using Zeros = CompressedTensorsZeros<bits>;
    add(packed<Weights>(q.codes, q.N, q.K, Dtype::kI32, infos[0].shape));
    add(reshaped(q.scale.values, infos[1].shape));
    add(Tensor::copy_of(Dtype::kI64, {2}, std::span<const int64_t>(shape)));
    if (!q.scheme.symmetric()) {
      add(packed<Zeros>(q.zero.values, q.N, groups, Dtype::kI32, infos[3].shape));
    }
  });
  if (module.has_column_groups) add(column_group_tensor(q, columns_of_group(module)));
  return result;
}

// ---- reading ------------------------------------------------------------------------------------

// The floating-point members have bytes under the same name.
std::vector<std::string> pack_tensors(const Checkpoint& checkpoint, const std::string& module) {
  const std::string packed = module + ".weight_packed";
  if (checkpoint.has(packed) && checkpoint.info(packed).info.dtype == Dtype::kU8) return {};
  return present_tensors(checkpoint, module, {"weight_packed", "weight_scale", "weight_shape"},
                         {"weight_zero_point", "weight_g_idx"});
}

// The sizes of a module's packed arrays in one of the two layouts, dense or every word padded.
struct PackedShapes {
  Shape weights;
  Shape zeros;
};

PackedShapes packed_shapes(int64_t N, int64_t K, int64_t groups, int bits, bool padded) {
  const auto words = [&](int64_t codes) {
    return padded ? divide_up(codes, 32 / bits) : divide_up(codes * bits, 32);
  };
  return {{N, words(K)}, {words(N), groups}};
}

// Whether the module has the layout that pads, told by the size of either array; where no size
// tells them apart, it is dense.
bool is_padded(const Checkpoint& checkpoint, const std::string& module, const PackedShapes& dense,
               const PackedShapes& padded) {
  const auto told = [&](const std::string& name, const Shape& with, const Shape& without) {
    return with != without && checkpoint.has(name) && checkpoint.info(name).info.shape == with;
  };
  return told(module + ".weight_packed", padded.weights, dense.weights) ||
         told(module + ".weight_zero_point", padded.zeros, dense.zeros);
}

template <typename Weights, typename Zeros>
void unpack(const Checkpoint& checkpoint, const std::string& module, const PackedShapes& shapes,
            QuantizedLinear& q) {
  q.codes = unpacked<Weights>(
      checked_tensor(checkpoint, module + ".weight_packed", {Dtype::kI32}, shapes.weights), q.N,
      q.K);
  if (q.scheme.symmetric()) return;
  q.zero.values = unpacked<Zeros>(
      checked_tensor(checkpoint, module + ".weight_zero_point", {Dtype::kI32}, shapes.zeros), q.N,
      shapes.zeros[1]);
}

void check_weight_shape(const Checkpoint& checkpoint, const std::string& name, int64_t N,
                        int64_t K) {
  const Tensor tensor = checked_tensor(checkpoint, name, {Dtype::kI64, Dtype::kI32}, {2});
  Shape shape(2);
  for (size_t i = 0; i < 2; ++i) {
    shape[i] =
        tensor.dtype() == Dtype::kI64 ? tensor.values<int64_t>()[i] : tensor.values<int32_t>()[i];
  }
  if (shape != Shape{N, K}) {
    throw Error(where_of(checkpoint, name),
                to_string(shape) + ", expected " + to_string({N, K}) + " from config.json");
  }
}

// weight_g_idx; -1 anywhere means that it was never filled in.
std::vector<int32_t> read_column_groups(const Checkpoint& checkpoint, const std::string& module,
                                        int64_t K, int64_t columns) {
  const std::string name = module + ".weight_g_idx";
  if (!checkpoint.has(name)) return {};
  const Tensor tensor = checked_tensor(checkpoint, name, {Dtype::kI32}, {K});
  const std::span<const int32_t> values = tensor.values<int32_t>();
  if (std::find(values.begin(), values.end(), -1) != values.end()) return {};
  return column_groups(checkpoint, name, K, columns, K / columns);
}

QuantizedLinear pack_decode(const Checkpoint& checkpoint, const std::string& module,
                            const CompressedArguments& arguments, int64_t N, int64_t K) {
  const std::string where = where_of_config(checkpoint);
  const int64_t columns = arguments.blocking.columns == kAll ? K : arguments.blocking.columns;
  if (K % columns != 0) {
    throw Error(where, "group_size " + std::to_string(columns) +
                           " does not divide K = " + std::to_string(K) + " of '" + module + "'");
  }
  const int64_t groups = K / columns;
  check_weight_shape(checkpoint, module + ".weight_shape", N, K);

  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.scale.values =
      checked_tensor(checkpoint, module + ".weight_scale", {Dtype::kF16, Dtype::kBF16, Dtype::kF32},
                     arguments.per_tensor() ? Shape{1} : Shape{N, groups});
  q.scheme = integer_scheme(arguments.bits, arguments.blocking.columns, arguments.symmetric,
                            q.scale.values.dtype(), arguments.per_tensor());
  with_bits(arguments.bits, [&](auto bits) {
    const PackedShapes dense = packed_shapes(N, K, groups, bits, false);
    const PackedShapes padded = packed_shapes(N, K, groups, bits, true);
    if (is_padded(checkpoint, module, dense, padded)) {
      unpack<CompressedTensorsPaddedWeights<bits>, CompressedTensorsPaddedZeros<bits>>(
          checkpoint, module, padded, q);
    } else {
      unpack<CompressedTensorsWeights<bits>, CompressedTensorsZeros<bits>>(checkpoint, module,
                                                                           dense, q);
    }
  });
  const std::string zero = module + ".weight_zero_point";
  if (arguments.symmetric && checkpoint.has(zero)) {
    throw Error(where_of(checkpoint, zero), "a zero point, but the config says symmetric");
  }
  q.group_of_column = read_column_groups(checkpoint, module, K, columns);
  check(q, checkpoint.folder().string() + ": " + module);
  return q;
}

}  // namespace

const CompressedMember kPackQuantized = {.name = "pack-quantized",
                                         .refusal = pack_refusal,
                                         .layout = pack_layout,
                                         .encode = pack_encode,
                                         .tensors_of = pack_tensors,
                                         .decode = pack_decode};

}  // namespace nibble
