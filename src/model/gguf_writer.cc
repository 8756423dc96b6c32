#include "src/model/gguf_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/gguf/config.h"
#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/names.h"
#include "formats/gguf/types.h"
#include "formats/gguf/writer.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/tokenizer_gguf.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr const char* kFileType = "general.file_type";

// llama.h, enum llama_ftype: the mixture that a file is, or what most of its weights are, K types
// then as the smallest mixture ("_S").
struct FileType {
  std::string_view name;
  uint32_t id;
};
constexpr std::array kFileTypes = {
    FileType{"f32", 0},     FileType{"f16", 1},     FileType{"q4_0", 2},    FileType{"q4_1", 3},
    FileType{"q8_0", 7},    FileType{"q5_0", 8},    FileType{"q5_1", 9},    FileType{"q2_k", 10},
    FileType{"q2_k_m", 10}, FileType{"q3_k", 11},   FileType{"q3_k_s", 11}, FileType{"q3_k_m", 12},
    FileType{"q3_k_l", 13}, FileType{"q4_k", 14},   FileType{"q4_k_s", 14}, FileType{"q4_k_m", 15},
    FileType{"q5_k", 16},   FileType{"q5_k_s", 16}, FileType{"q5_k_m", 17}, FileType{"q6_k", 18},
    FileType{"iq4_nl", 25}, FileType{"iq4_xs", 30}, FileType{"bf16", 32},   FileType{"mxfp4", 38},
};

const FileType* file_type(std::string_view name) {
  const auto* found = std::ranges::find(kFileTypes, name, &FileType::name);
  return found == kFileTypes.end() ? nullptr : found;
}

// The scheme asked for, "" if the recipe names none.
std::string scheme_of(const Json& manifest) {
  const Json::json_pointer place("/recipe/scheme");
  return manifest.contains(place) && manifest.at(place).is_string()
             ? manifest.at(place).get<std::string>()
             : "";
}

// What llama.cpp's graph of the architecture computes, whatever the metadata say.
void check_computed(const Config& config, const std::string& where) {
  const Architecture& row = *config.architecture;
  const auto refuse = [&](const std::string& what) {
    throw Error(where, what + ", which llama.cpp's architecture '" +
                           std::string(gguf_architecture(row)) + "' does not compute");
  };
  if (gguf_architecture(row).empty()) {
    throw Error(where, "model_type '" + std::string(row.model_type) + "' has no place in GGUF yet");
  }
  const bool rotary = row.positions == Positions::kRope;
  if (config.activation != (rotary ? Activation::kSilu : Activation::kGeluTanh)) {
    refuse("another activation than " + std::string(rotary ? "silu" : "gelu_new"));
  }
  if (config.sliding_window > 0 && config.sliding_window < config.context) {
    refuse("a window of " + std::to_string(config.sliding_window) + " tokens in a context of " +
           std::to_string(config.context));
  }
  if (row.model_type == "qwen3" && config.attention_bias) refuse("biases of q, k and v");
}

// Keys "<architecture>.<name>".
void set_numbers(const Config& config, GgufMetadata& metadata) {
  const Architecture& row = *config.architecture;
  const std::string prefix = std::string(gguf_architecture(row)) + ".";
  const auto set = [&](const char* name, int64_t value) {
    metadata.set(prefix + name, static_cast<uint32_t>(value));
  };
  const auto set_float = [&](const char* name, double value) {
    metadata.set(prefix + name, static_cast<float>(value));
  };
  set("block_count", config.layers);
  set("context_length", config.context);
  set("embedding_length", config.hidden_size);
  set("feed_forward_length", config.intermediate_size);
  set("attention.head_count", config.heads);
  set("vocab_size", config.vocabulary_size);
  if (row.norm == Norm::kLayer) {
    set_float("attention.layer_norm_epsilon", config.norm_epsilon);
  } else {
    set_float("attention.layer_norm_rms_epsilon", config.norm_epsilon);
  }
  if (row.positions != Positions::kRope) return;
  set("attention.head_count_kv", config.key_value_heads);
  set("attention.key_length", config.head_size);
  set("attention.value_length", config.head_size);
  set("rope.dimension_count", config.head_size);
  set_float("rope.freq_base", config.rope_theta);
  if (config.rope_scaling.kind == RopeScaling::Kind::kLlama3) {
    set(kRopeOriginalContext, static_cast<int64_t>(config.rope_scaling.original_context));
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) {
    metadata.set(prefix + "rope.scaling.type", std::string("linear"));
    set_float("rope.scaling.factor", config.rope_scaling.factor);
  }
}

// What each frequency is divided by.
std::vector<float> rope_factors(const Config& config) {
  if (config.rope_scaling.kind != RopeScaling::Kind::kLlama3) return {};
  Config plain = config;
  plain.rope_scaling = {};
  const std::vector<float> scaled = config.rope_frequencies();
  std::vector<float> factors = plain.rope_frequencies();
  for (size_t i = 0; i < factors.size(); ++i) factors[i] /= scaled[i];
  return factors;
}

std::string name_of(const std::filesystem::path& model) {
  const std::filesystem::path whole = std::filesystem::weakly_canonical(model);
  return (whole.has_filename() ? whole : whole.parent_path()).stem().string();
}

// "<module>.weight.q4_k" -> that type; of a tensor that is not blocks: null.
const GgufType* type_of_blocks(const TensorInfo& tensor, const std::string& weight) {
  if (tensor.dtype != Dtype::kU8 || !tensor.name.starts_with(weight + ".")) return nullptr;
  return gguf_type(std::string_view(tensor.name).substr(weight.size() + 1));
}

}  // namespace

GgufModelWriter::GgufModelWriter(const std::filesystem::path& file, bool replace,
                                 const Json& config, const std::filesystem::path& model,
                                 const Json& manifest)
    : file_(file), replace_(replace), config_(read_config(config, model.string())) {
  check_computed(config_, model.string());
  modules_ = gguf_modules(*config_.architecture, config_.layers);
  metadata_ = GgufMetadata(file.string());
  metadata_.set("general.architecture", std::string(gguf_architecture(*config_.architecture)));
  metadata_.set("general.type", std::string("model"));
  metadata_.set("general.name", name_of(model));
  metadata_.set("general.quantization_version", uint32_t{2});
  set_numbers(config_, metadata_);
  add_gguf_tokenizer(model, config_.vocabulary_size, metadata_);
  metadata_.set("nibble.manifest", manifest.dump());
  scheme_ = scheme_of(manifest);
  rope_factors_ = rope_factors(config_);
}

Dtype GgufModelWriter::stored_dtype(const TensorInfo& tensor) {
  const bool vector = tensor.shape.size() == 1 || tensor.name.ends_with("wpe.weight");
  return vector && is_float(tensor.dtype) ? Dtype::kF32 : tensor.dtype;
}

void GgufModelWriter::declare(const TensorInfo& tensor) {
  for (const GgufModule& module : modules_) {
    for (const char* part : {".weight", ".bias"}) {
      const std::string ours = module.module + part;
      Stored stored = {.info = tensor, .tensor = {}, .module = &module};
      stored.tensor.name = module.name + part;
      stored.tensor.shape = tensor.shape;
      if (const GgufType* blocks = type_of_blocks(tensor, ours)) {
        stored.tensor.type = blocks;
        stored.tensor.shape[1] = tensor.shape[1] / blocks->block_bytes * blocks->block;
      } else if (tensor.name == ours) {
        stored.tensor.type = gguf_type(tensor.dtype);
        if (module.transposed && tensor.shape.size() == 2) {
          std::swap(stored.tensor.shape[0], stored.tensor.shape[1]);
        }
      } else {
        continue;
      }
      if (stored.tensor.type == nullptr) {
        throw Error("tensor '" + tensor.name + "'",
                    std::string(dtype_name(tensor.dtype)) + " has no place in GGUF");
      }
      order_.push_back(tensor.name);
      stored_.emplace(tensor.name, std::move(stored));
      return;
    }
  }
  throw Error("tensor '" + tensor.name + "'", "has no place in a GGUF file");
}

void GgufModelWriter::plan() {
  std::vector<GgufTensor> tensors;
  std::map<std::string_view, int64_t> bytes;
  for (const std::string& name : order_) {
    const GgufTensor& tensor = stored_.at(name).tensor;
    tensors.push_back(tensor);
    if (tensor.shape.size() == 2) {
      bytes[tensor.type->name] += gguf_bytes(*tensor.type, tensor.shape, name);
    }
  }
  if (!rope_factors_.empty()) {
    tensors.push_back({.name = kRopeFactors,
                       .type = gguf_type(Dtype::kF32),
                       .shape = {std::ssize(rope_factors_)}});
  }
  const auto most = std::ranges::max_element(
      bytes, [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool is_mixture = gguf_type(scheme_) == nullptr;
  const FileType* type = is_mixture ? file_type(scheme_) : nullptr;
  if (type == nullptr && most != bytes.end()) type = file_type(most->first);
  if (type != nullptr) metadata_.set(kFileType, type->id);
  writer_ = std::make_unique<GgufWriter>(file_, replace_, metadata_, std::move(tensors));
  if (!rope_factors_.empty()) {
    writer_->write(kRopeFactors, std::as_bytes(std::span(rope_factors_)));
  }
}

int64_t GgufModelWriter::head_rows(const GgufModule& module) const {
  return module.rows == GgufModule::Rows::kInOrder ? 0 : config_.head_size;
}

void GgufModelWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const Stored& stored = stored_.at(name);
  const GgufTensor& tensor = stored.tensor;
  if (tensor.type->dtype && stored.module->transposed && tensor.shape.size() == 2) {
    const Tensor turned =
        transposed(Tensor::borrow({stored.info.dtype, stored.info.shape, bytes, Device::kCpu}, {}));
    return writer_->write(tensor.name, turned.bytes());
  }
  const int64_t rows = head_rows(*stored.module);
  if (rows == 0) return writer_->write(tensor.name, bytes);
  const int64_t N = tensor.shape.front();
  const size_t row_bytes = bytes.size() / static_cast<size_t>(N);
  std::vector<std::byte> ordered(bytes.size());
  for (int64_t n = 0; n < N; ++n) {
    const auto to =
        static_cast<std::ptrdiff_t>(gguf_row(n, rows)) * static_cast<std::ptrdiff_t>(row_bytes);
    std::ranges::copy(bytes.subspan(static_cast<size_t>(n) * row_bytes, row_bytes),
                      ordered.begin() + to);
  }
  writer_->write(tensor.name, ordered);
}

}  // namespace nibble
