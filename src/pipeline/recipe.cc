#include "src/pipeline/recipe.h"

#include <algorithm>
#include <array>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

struct SearchRow {
  ScaleSearch search;
  std::string_view name;
};
constexpr std::array<SearchRow, 3> kSearches = {{
    {ScaleSearch::kHessian, "hessian"},
    {ScaleSearch::kMse, "mse"},
    {ScaleSearch::kMinMax, "minmax"},
}};

}  // namespace

std::string_view scale_search_name(ScaleSearch search) {
  return std::find_if(kSearches.begin(), kSearches.end(),
                      [&](const SearchRow& row) { return row.search == search; })
      ->name;
}

ScaleSearch scale_search_from_name(const std::string& name) {
  for (const SearchRow& row : kSearches) {
    if (row.name == name) return row.search;
  }
  throw Error("--scale-search", "unknown search '" + name + "'", "known: hessian, mse, minmax");
}

Json to_json(const Recipe& recipe) {
  Json json;
  json["method"] = recipe.method;
  json["bits"] = recipe.bits;
  json["group_size"] = recipe.group_size;
  json["symmetric"] = recipe.symmetric;
  json["format"] = recipe.format;
  json["include"] = recipe.include;
  json["exclude"] = recipe.exclude;
  json["output_head_bits"] = recipe.output_head_bits ? Json(*recipe.output_head_bits) : Json();
  json["dtype"] = recipe.dtype ? Json(torch_dtype_name(*recipe.dtype)) : Json();
  json["requantize"] = recipe.requantize;
  if (recipe.calibration.dataset.empty()) return json;
  json["calibration"] = {{"dataset", recipe.calibration.dataset.string()},
                         {"samples", recipe.calibration.samples},
                         {"seq_len", recipe.calibration.seq_len},
                         {"seed", recipe.calibration.seed},
                         {"pack", recipe.calibration.pack},
                         {"past", "quantized"}};
  json["gptq"] = {
      {"act_order", recipe.gptq.act_order}, {"static_groups", recipe.gptq.static_groups},
      {"damp", recipe.gptq.damp},           {"scale_search", scale_search_name(recipe.gptq.search)},
      {"sweeps", recipe.gptq.sweeps},       {"true_sequential", recipe.true_sequential},
      {"correct_past", recipe.correct_past}};
  return json;
}

std::string default_format(int bits) {
  if (bits == 4 || bits == 8) return "compressed-tensors";
  if (bits == 2 || bits == 3) return "gptq";
  return "nibble";
}

}  // namespace nibble
