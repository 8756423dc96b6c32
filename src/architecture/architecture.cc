#include "src/architecture/architecture.h"

#include <array>
#include <span>
#include <string>
#include <vector>

#include "src/architecture/rows.h"
#include "src/tensor/error.h"

namespace nibble {

std::span<const Architecture> architectures() {
  static const std::array kRows = {llama(), mistral(), qwen2(), qwen3(), gpt2()};
  return kRows;
}

const Architecture& architecture(const std::string& model_type, const std::string& where) {
  std::vector<std::string> known;
  std::string list;
  for (const Architecture& row : architectures()) {
    if (row.model_type == model_type) return row;
    known.emplace_back(row.model_type);
    list += (list.empty() ? "" : ", ") + std::string(row.model_type);
  }
  const std::string nearest = nearest_name(model_type, known);
  throw Error(where, "model_type '" + model_type + "' is not implemented, known are " + list,
              nearest.empty() ? "" : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
