#include "src/pipeline/recipe.h"

#include "src/tensor/dtype.h"

namespace nibble {

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
  return json;
}

std::string default_format(int bits) {
  if (bits == 4 || bits == 8) return "compressed-tensors";
  if (bits == 2 || bits == 3) return "gptq";
  return "nibble";
}

}  // namespace nibble
