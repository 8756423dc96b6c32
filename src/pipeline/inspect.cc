#include "src/pipeline/inspect.h"

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/model/layout.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Weights of the model: quantized layers count N * K, everything else its elements.
int64_t parameter_count(const Checkpoint& checkpoint, const ModelLayout& layout) {
  int64_t count = 0;
  std::set<std::string> parts(layout.ignored.begin(), layout.ignored.end());
  for (const LinearModule& module : layout.linears) {
    if (module.quantized_tensors.empty()) continue;
    count += module.N * module.K;
    parts.insert(module.quantized_tensors.begin(), module.quantized_tensors.end());
  }
  for (const auto& [name, stored] : checkpoint.tensors()) {
    if (!parts.contains(name)) count += element_count(stored.info.shape);
  }
  return count;
}

Json quantization_of(const Checkpoint& checkpoint, const ModelLayout& layout) {
  if (layout.format == nullptr) return nullptr;
  std::map<std::string, int64_t> schemes;
  for (const LinearModule& module : layout.linears) {
    if (module.quantized_tensors.empty()) continue;
    const QuantizedLinear q = layout.format->decode(checkpoint, module.name, module.N, module.K);
    ++schemes[describe(q.scheme) + (q.group_of_column.empty() ? "" : ", column groups")];
  }
  Json json;
  json["format"] = layout.format->name;
  json["modules"] = Json::object();
  for (const auto& [scheme, count] : schemes) json["modules"][scheme] = count;
  return json;
}

}  // namespace

Json inspect(const Checkpoint& checkpoint) {
  const ModelLayout layout = read_layout(checkpoint);
  Json json;
  json["architecture"] = layout.config.architecture->model_type;
  json["parameters"] = parameter_count(checkpoint, layout);
  json["bytes"] = checkpoint.bytes();
  json["quantization"] = quantization_of(checkpoint, layout);
  json["tied_embeddings"] = !layout.head.has_value();
  json["layers"] = layout.config.layers;
  json["hidden_size"] = layout.config.hidden_size;
  json["vocabulary_size"] = layout.config.vocabulary_size;
  json["context"] = layout.config.context;
  json["linear_layers"] = Json::array();
  for (const LinearModule& module : layout.linears) {
    json["linear_layers"].push_back({{"name", module.name}, {"shape", {module.N, module.K}}});
  }
  json["tensors"] = Json::array();
  for (const auto& [name, stored] : checkpoint.tensors()) {
    json["tensors"].push_back({{"name", name},
                               {"dtype", dtype_name(stored.info.dtype)},
                               {"shape", stored.info.shape},
                               {"bytes", byte_count(stored.info.dtype, stored.info.shape)},
                               {"file", stored.file.filename().string()}});
  }
  return json;
}

}  // namespace nibble
