#include "src/model/layout.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kMostFindings = 1000;  // nobody reads more, and each costs a search for names

std::string file_of(const Checkpoint& checkpoint, const std::string& tensor) {
  return tensor_place(checkpoint.info(tensor).file.filename().string(), tensor);
}

int64_t rows_of_role(const Config& config, Role role) {
  switch (role) {
    case Role::kQuery:
      return config.heads * config.head_size;
    case Role::kKey:
    case Role::kValue:
      return config.key_value_heads * config.head_size;
    case Role::kAttentionOutput:
    case Role::kDown:
      return config.hidden_size;
    case Role::kGate:
    case Role::kUp:
      return config.intermediate_size;
    case Role::kOutputHead:
      return config.vocabulary_size;
  }
  return 0;
}

int64_t inputs_of(const Config& config, InputGroup input) {
  switch (input) {
    case InputGroup::kAttentionOutput:
      return config.heads * config.head_size;
    case InputGroup::kMlpDown:
      return config.intermediate_size;
    case InputGroup::kAttention:
    case InputGroup::kMlp:
    case InputGroup::kOutputHead:
      return config.hidden_size;
  }
  return 0;
}

bool has_bias(const Config& config, Bias bias) {
  switch (bias) {
    case Bias::kNever:
      return false;
    case Bias::kAlways:
      return true;
    case Bias::kAttentionBiasKey:
      return config.attention_bias;
    case Bias::kMlpBiasKey:
      return config.mlp_bias;
  }
  return false;
}

bool same_bytes(const Checkpoint& checkpoint, const std::string& a, const std::string& b) {
  const Tensor x = checkpoint.tensor(a);
  const Tensor y = checkpoint.tensor(b);
  return x.dtype() == y.dtype() && x.shape() == y.shape() &&
         std::ranges::equal(x.bytes(), y.bytes());
}

// Builds a ModelLayout, remembering which tensors it has accounted for.
class LayoutReader {
 public:
  LayoutReader(const Checkpoint& checkpoint, Findings* findings)
      : checkpoint_(checkpoint),
        findings_(findings),
        config_file_((checkpoint.folder() / "config.json").string()) {
    layout_.config = read_config(checkpoint.config(), config_file_);
    layout_.format = format_of(checkpoint);
  }

  ModelLayout read() {
    const Architecture& row = architecture();
    const std::string plain = std::string(row.embedding) + ".weight";
    const bool bare = !checkpoint_.has(std::string(row.prefix) + plain) &&
                      !checkpoint_.has(std::string(row.head) + ".weight") && checkpoint_.has(plain);
    prefix_ = bare ? "" : row.prefix;
    check_layers();
    for (int64_t block = 0; block < config().layers; ++block) read_block(block);
    if (!row.position_embedding.empty()) {
      layout_.position_embedding = prefix_ + std::string(row.position_embedding) + ".weight";
      expect(layout_.position_embedding, {config().context, config().hidden_size});
    }
    layout_.final_norm = prefix_ + std::string(row.final_norm);
    read_norm(layout_.final_norm, config().hidden_size);
    read_embeddings();
    refuse_leftovers();
    return std::move(layout_);
  }

 private:
  const Config& config() const { return layout_.config; }
  const Architecture& architecture() const { return *layout_.config.architecture; }

  // What a check throws ends the reading unless findings are collected.
  template <typename Check>
  void attempt(const Check& check) {
    try {
      check();
    } catch (const Error& error) {
      if (findings_ == nullptr) throw;
      findings_->push_back(error);
      if (std::ssize(*findings_) > kMostFindings) {
        throw Error(config_file_, "more than " + std::to_string(kMostFindings) + " problems",
                    "do config.json and the weights belong together?");
      }
    }
  }

  // Checks a tensor that must be there.
  void expect(const std::string& name, const Shape& shape) {
    known_.insert(name);
    attempt([&] { check_stored(checkpoint_.info(name), name, shape); });
  }

  void check_stored(const StoredTensor& stored, const std::string& name, const Shape& shape) const {
    if (stored.info.shape != shape) {
      throw Error(file_of(checkpoint_, name), "shape " + to_string(stored.info.shape) +
                                                  ", config.json asks for " + to_string(shape));
    }
    if (!is_float(stored.info.dtype)) {
      throw Error(
          file_of(checkpoint_, name),
          "type " + std::string(dtype_name(stored.info.dtype)) + ", expected a floating-point type",
          layout_.format == nullptr ? "quantized without a quantization_config?" : "");
    }
  }

  // Before as many names are made: each block has a tensor at least.
  void check_layers() const {
    const auto tensors = std::ssize(checkpoint_.tensors());
    if (config().layers <= tensors) return;
    throw Error(config_file_,
                "key '" + std::string(architecture().keys.layers) + "' is " +
                    std::to_string(config().layers) + ", the checkpoint has " +
                    std::to_string(tensors) + " tensors",
                "is a shard missing?");
  }

  void read_norm(const std::string& module, int64_t size) {
    expect(module + ".weight", {size});
    if (architecture().norm == Norm::kLayer) expect(module + ".bias", {size});
  }

  void read_block(int64_t block) {
    const Architecture& row = architecture();
    const std::string prefix = prefix_ + std::string(row.block) + std::to_string(block) + ".";
    const auto norm = [&](std::string_view name, int64_t size) {
      if (name.empty()) return std::string();
      const std::string module = prefix + std::string(name);
      read_norm(module, size);
      return module;
    };
    ModelLayout::BlockNorms norms;
    norms.attention = norm(row.attention_norm, config().hidden_size);
    norms.mlp = norm(row.mlp_norm, config().hidden_size);
    norms.query = norm(row.query_norm, config().head_size);
    norms.key = norm(row.key_norm, config().head_size);
    layout_.norms.push_back(norms);
    for (const LinearRow& linear : row.linears) {
      LinearModule module;
      module.name = prefix + std::string(linear.name);
      module.block = block;
      module.K = inputs_of(config(), linear.input);
      module.roles.assign(linear.roles.begin(), linear.roles.end());
      module.input = linear.input;
      module.transposed = row.transposed;
      for (const Role role : linear.roles) module.N += rows_of_role(config(), role);
      read_weight(module);
      read_bias(module, has_bias(config(), linear.bias));
      layout_.linears.push_back(std::move(module));
    }
  }

  void read_weight(LinearModule& module) {
    if (layout_.format != nullptr) {
      bool broken = true;
      attempt([&] {
        module.quantized_tensors = layout_.format->tensors_of(checkpoint_, module.name);
        broken = false;
      });
      if (broken) return know_parts_of(module.name);
      known_.insert(module.quantized_tensors.begin(), module.quantized_tensors.end());
      if (!module.quantized_tensors.empty()) return;
    }
    module.weight = module.name + ".weight";
    expect(module.weight,
           module.transposed ? Shape{module.K, module.N} : Shape{module.N, module.K});
  }

  // Whatever is left of a module that is broken is no leftover besides.
  void know_parts_of(const std::string& module) {
    for (const auto& [name, stored] : checkpoint_.tensors()) {
      if (name.starts_with(module + ".")) known_.insert(name);
    }
  }

  void read_bias(LinearModule& module, bool expected) {
    const std::string name = module.name + ".bias";
    if (expected) {
      expect(name, {module.N});
      module.bias = name;
    } else if (!module.quantized_tensors.empty() && checkpoint_.has(name) && is_zero(name)) {
      // Early GPTQ writers give every layer a bias.
      layout_.ignored.push_back(name);
      known_.insert(name);
    }
  }

  bool is_zero(const std::string& name) const {
    const Tensor tensor = checkpoint_.tensor(name);
    return std::ranges::all_of(tensor.bytes(), [](std::byte b) { return b == std::byte{0}; });
  }

  void read_embeddings() {
    const std::string stored = prefix_ + std::string(architecture().embedding) + ".weight";
    LinearModule head;
    head.name = architecture().head;
    head.N = config().vocabulary_size;
    head.K = config().hidden_size;
    head.roles = {Role::kOutputHead};
    head.input = InputGroup::kOutputHead;
    const std::string head_weight = head.name + ".weight";
    bool quantized = false;
    if (layout_.format != nullptr) {
      attempt([&] { quantized = !layout_.format->tensors_of(checkpoint_, head.name).empty(); });
    }
    const bool has_head = quantized || checkpoint_.has(head_weight);
    const Shape shape = {config().vocabulary_size, config().hidden_size};
    const bool tied = config().tied_embeddings;

    if (tied && !quantized && has_head && !checkpoint_.has(stored)) {
      layout_.embedding = head_weight;
      return expect(head_weight, shape);
    }
    layout_.embedding = stored;
    expect(stored, shape);
    if (!has_head) {
      if (tied) return;
      return attempt([&] {
        throw Error(config_file_,
                    "tie_word_embeddings is false, but the checkpoint has no '" + head_weight + "'",
                    "incomplete checkpoint, or a model with tied embeddings?");
      });
    }
    if (tied) {
      attempt([&] {
        if (!quantized && same_bytes(checkpoint_, stored, head_weight)) return;
        throw Error(
            config_file_,
            "tie_word_embeddings is true, but '" + head.name + "' differs from '" + stored + "'",
            "set it to false if the model has a head of its own");
      });
      return quantized ? know_parts_of(head.name) : expect(head_weight, shape);
    }
    read_weight(head);
    layout_.head = layout_.linears.size();
    layout_.linears.push_back(std::move(head));
  }

  bool is_buffer(std::string_view name) const {
    return std::ranges::any_of(architecture().ignored_tensors, [&](std::string_view suffix) {
      return name == suffix || name.ends_with("." + std::string(suffix));
    });
  }

  void refuse_leftovers() {
    std::vector<std::string> leftovers;
    for (const auto& [name, stored] : checkpoint_.tensors()) {
      if (known_.contains(name)) continue;
      if (is_buffer(name)) {
        layout_.ignored.push_back(name);
      } else {
        leftovers.push_back(name);
      }
    }
    if (leftovers.empty()) return;
    const std::string problem = "is no part of model_type '" +
                                std::string(architecture().model_type) +
                                "' as config.json describes it";
    if (findings_ != nullptr) {
      for (const std::string& name : leftovers) {
        findings_->emplace_back(file_of(checkpoint_, name), problem);
      }
      return;
    }
    const size_t more = leftovers.size() - 1;
    throw Error(
        file_of(checkpoint_, leftovers.front()),
        problem + (more == 0 ? "" : ", and " + std::to_string(more) + " more tensors are not"));
  }

  const Checkpoint& checkpoint_;
  Findings* findings_;  // null: the first is thrown
  std::string config_file_;
  std::string prefix_;
  ModelLayout layout_;
  std::set<std::string> known_;
};

}  // namespace

std::pair<int64_t, int64_t> ModelLayout::rows_of(const Config& config, const LinearModule& module,
                                                 Role role) {
  int64_t first = 0;
  for (const Role present : module.roles) {
    const int64_t count = rows_of_role(config, present);
    if (present == role) return {first, count};
    first += count;
  }
  return {0, 0};
}

ModelLayout read_layout(const Checkpoint& checkpoint, Findings* findings) {
  return LayoutReader(checkpoint, findings).read();
}

std::vector<float> load_floats(const Checkpoint& checkpoint, const std::string& tensor) {
  const Tensor stored = checkpoint.tensor(tensor);
  std::vector<float> values(stored.elements());
  to_float(stored.view(), values);
  return values;
}

Matrix load_weight(const Checkpoint& checkpoint, const ModelLayout& layout,
                   const LinearModule& module, Matrix memory) {
  if (!module.quantized_tensors.empty()) {
    return dequantize(layout.format->decode(checkpoint, module.name, module.N, module.K));
  }
  Matrix weight = std::move(memory);
  weight.resize(module.transposed ? module.K : module.N, module.transposed ? module.N : module.K);
  to_float(checkpoint.tensor(module.weight).view(),
           {weight.data(), static_cast<size_t>(weight.size())});
  if (module.transposed) return weight.transpose();
  return weight;
}

}  // namespace nibble
