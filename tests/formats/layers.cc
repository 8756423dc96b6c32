#include "tests/formats/layers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

Tensor random_floats(Dtype dtype, int64_t count, std::mt19937& random) {
  std::uniform_real_distribution<float> scale(0.03125f, 0.0625f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale(random);
  Tensor tensor = Tensor::allocate(dtype, {count});
  from_float(values, dtype, tensor.mutable_bytes());
  return tensor;
}

Tensor random_integers(Dtype dtype, int bits, int64_t count, std::mt19937& random) {
  Tensor tensor = Tensor::allocate(dtype, {count});
  const uint32_t low = dtype == Dtype::kI8 ? 256 - (1u << (bits - 1)) : 0;
  for (std::byte& value : tensor.mutable_bytes()) {
    value = static_cast<std::byte>((random() % (1u << bits) + low) & 0xFF);
  }
  return tensor;
}

ParameterValues random_values(const std::optional<Parameter>& parameter, int64_t blocks, int64_t N,
                              std::mt19937& random) {
  ParameterValues values;
  if (!parameter) return values;
  values.values = is_float(parameter->type)
                      ? random_floats(parameter->type, blocks, random)
                      : random_integers(parameter->type, parameter->bits, blocks, random);
  if (parameter->second) {
    const int64_t count = second_count(*parameter->second, blocks, N);
    values.second = random_floats(parameter->second->type, count, random);
    if (parameter->second->has_offset) values.offset = 0.1f;
  }
  return values;
}

// K / groups columns in each.
std::vector<int32_t> random_groups(int64_t K, int64_t groups, std::mt19937& random) {
  std::vector<int32_t> result(static_cast<size_t>(K));
  for (size_t k = 0; k < result.size(); ++k) {
    result[k] = static_cast<int32_t>(static_cast<int64_t>(k) * groups / K);
  }
  std::shuffle(result.begin(), result.end(), random);
  return result;
}

}  // namespace

QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed,
                             bool column_groups) {
  std::mt19937 random(seed);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = random_integers(Dtype::kU8, scheme.grid.bits, N * K, random);
  q.codes = Tensor::copy_of(Dtype::kU8, {N, K}, q.codes.values<uint8_t>());
  for (uint8_t& code : q.codes.mutable_values<uint8_t>()) {
    if (!scheme.grid.table.empty() && std::isnan(scheme.grid.table[code])) code = 0;
  }
  const int64_t blocks = block_count(scheme.blocking, N, K);
  q.scale = random_values(scheme.scale, blocks, N, random);
  q.zero = random_values(scheme.zero, blocks, N, random);
  q.minimum = random_values(scheme.minimum, blocks, N, random);
  if (scheme.grid.kind == Grid::Kind::kCodebook) {
    const int64_t books = block_count(scheme.codebook_blocking, N, K);
    const int64_t entries = int64_t{1} << scheme.grid.bits;
    q.codebooks = random_floats(Dtype::kF16, books * entries, random);
    q.codebooks = Tensor::copy_of(Dtype::kF16, {books, entries}, q.codebooks.values<uint16_t>());
  }
  if (column_groups) q.group_of_column = random_groups(K, group_count(scheme.blocking, K), random);
  if (scheme.activations && !scheme.activations->dynamic) {
    q.input_scale = random_floats(Dtype::kF32, 1, random);
    if (!scheme.activations->symmetric) q.input_zero = random_integers(Dtype::kI8, 8, 1, random);
  }
  check(q, "random layer");
  return q;
}

FormatModule module_of(const std::string& name, const QuantizedLinear& q, Dtype dtype) {
  return {.name = name,
          .N = q.N,
          .K = q.K,
          .dtype = dtype,
          .transposed = false,
          .has_column_groups = !q.group_of_column.empty(),
          .codebook_type = q.codebooks.empty() ? Dtype::kF16 : q.codebooks.dtype(),
          .input_scale_type = q.input_scale.empty() ? Dtype::kF32 : q.input_scale.dtype(),
          .scheme = q.scheme};
}

FormatModule dense_module(const std::string& name, int64_t N, int64_t K) {
  FormatModule module;
  module.name = name;
  module.N = N;
  module.K = K;
  return module;
}

// Not by CheckpointWriter, whose fsync takes longer than all else in these tests.
Checkpoint written(const std::filesystem::path& folder, const Json& quantization_config,
                   const std::vector<NamedTensor>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
    header[name] = {{"dtype", dtype_name(tensor.dtype())},
                    {"shape", tensor.shape()},
                    {"data_offsets", {begin, data.size()}}};
  }
  Json config;
  config["model_type"] = "llama";
  if (!quantization_config.is_null()) config["quantization_config"] = quantization_config;
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config.dump());
  write_file(folder / "model.safetensors", raw_safetensors(header.dump(), data));
  return Checkpoint::open(folder);
}

Checkpoint written(const std::filesystem::path& folder, const Format& format,
                   const std::vector<NamedLayer>& layers) {
  std::vector<FormatModule> modules;
  std::vector<NamedTensor> tensors;
  for (const auto& [name, q] : layers) {
    modules.push_back(module_of(name, q));
    for (NamedTensor& tensor : format.encode(modules.back(), q)) {
      tensors.push_back(std::move(tensor));
    }
  }
  return written(folder, format.config(modules), tensors);
}

QuantizedLinear round_trip(const Format& format, const QuantizedLinear& q) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", format, {{"m", q}});
  return format.decode(checkpoint, "m", q.N, q.K);
}

Tensor encoded(const Format& format, const QuantizedLinear& q, const std::string& name) {
  return stored(format, q).at(name);
}

std::string decode_error(const Format& format, const Json& quantization_config,
                         const std::vector<NamedTensor>& tensors, int64_t N, int64_t K) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint = written(folder.path() / "model", quantization_config, tensors);
  try {
    if (format.tensors_of(checkpoint, "m").empty()) return "no tensors";
    format.decode(checkpoint, "m", N, K);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

Stored stored(const Format& format, const QuantizedLinear& q) {
  const FormatModule module = module_of("m", q);
  return {format.config(std::span(&module, 1)), format.encode(module, q)};
}

Tensor& Stored::at(const std::string& name) {
  for (NamedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor.tensor;
  }
  throw std::out_of_range(name);
}

void Stored::remove(const std::string& name) {
  std::erase_if(tensors, [&](const NamedTensor& tensor) { return tensor.name == name; });
}

int read_streamed_code(const Tensor& words, int64_t first, int64_t stride, int64_t e, int bits) {
  int code = 0;
  for (int i = 0; i < bits; ++i) {
    const int64_t b = e * bits + i;
    const auto word = words.values<uint32_t>()[static_cast<size_t>(first + b / 32 * stride)];
    code |= static_cast<int>(word >> (b % 32) & 1u) << i;
  }
  return code;
}

}  // namespace nibble
