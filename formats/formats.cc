#include <array>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/format_rows.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/tensor/error.h"

namespace nibble {

std::span<const Format> formats() {
  static const std::array kRows = {compressed_tensors_format::kFormat,
                                   gptq_format::kFormat,
                                   awq_gemm_format::kFormat,
                                   awq_gemv_format::kFormat,
                                   tinychat_format::kGemvFast,
                                   tinychat_format::kFormat,
                                   bitsandbytes_format::kFormat,
                                   fp8_format::kFormat,
                                   modelopt_format::kFormat,
                                   gguf_format::kFormat,
                                   nibble_format::kFormat,
                                   dense_format::kFormat};
  return kRows;
}

const Format& format(const std::string& name) {
  std::vector<std::string> names;
  std::string known;
  for (const Format& row : formats()) {
    if (row.name == name) return row;
    names.emplace_back(row.name);
    known += (known.empty() ? "" : ", ") + names.back();
  }
  const std::string nearest = nearest_name(name, names);
  throw Error("", "unknown format '" + name + "'",
              (nearest.empty() ? "" : "did you mean '" + nearest + "'? ") + "known: " + known);
}

const Format* format_of(const Checkpoint& checkpoint) {
  const Json& config = checkpoint.quantization_config();
  if (config.is_null()) return nullptr;
  for (const Format& row : formats()) {
    if (row.recognizes(config)) return &row;
  }
  std::string found = "quant_method '" + lower_name(config, "quant_method") + "'";
  for (const char* key : {"format", "checkpoint_format", "version", "quant_algo"}) {
    if (const std::string value = lower_name(config, key); !value.empty()) {
      found += ", " + std::string(key) + " '" + value + "'";
    }
  }
  throw Error(
      where_of_config(checkpoint), found + ": not read yet",
      "read: compressed-tensors (integers, FP8, NVFP4, MXFP4), gptq (v1 and v2), awq "
      "(gemm, gemv, gemv_fast, llm-awq), bitsandbytes, fp8, modelopt (NVFP4 and FP8), gguf, "
      "nibble");
}

}  // namespace nibble
