#include "tests/fuzz/inputs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "formats/safetensors.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestData = size_t{1} << 18;

// Where the last tensor ends; 0 for what is no such header.
size_t data_bytes(std::string_view header) {
  const Json json = Json::parse(header, nullptr, false);
  size_t bytes = 0;
  if (!json.is_object()) return bytes;
  for (const Json& entry : json) {
    const auto offsets = entry.is_object() ? entry.find("data_offsets") : entry.end();
    if (!entry.is_object() || offsets == entry.end() || !offsets->is_array()) continue;
    for (const Json& offset : *offsets) {
      if (!offset.is_number_unsigned()) continue;
      bytes = std::max(bytes, std::min(offset.get<size_t>(), kLargestData));
    }
  }
  return bytes;
}

}  // namespace

std::vector<std::string_view> files_of(std::string_view input, size_t count) {
  std::vector<std::string_view> files;
  while (files.size() + 1 < count) {
    const size_t end = std::min(input.find('\0'), input.size());
    files.push_back(input.substr(0, end));
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  files.push_back(input);
  return files;
}

std::string input_of(const std::vector<std::string>& files) {
  std::string input;
  for (size_t i = 0; i < files.size(); ++i) {
    if (i > 0) input.push_back('\0');
    input += files[i];
  }
  return input;
}

std::string safetensors_of(std::string_view header, std::string_view data) {
  std::string bytes(data);
  if (bytes.empty()) bytes.push_back('\0');
  const size_t wanted = data_bytes(header);
  while (bytes.size() < wanted) bytes += std::string(bytes);
  bytes.resize(wanted);
  return raw_safetensors(std::string(header), bytes);
}

std::string input_of_safetensors(const std::string& bytes) {
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return input_of({bytes.substr(sizeof(length), length), bytes.substr(sizeof(length) + length)});
}

const fs::path& scratch_folder() {
  static const TemporaryFolder kFolder;
  return kFolder.path();
}

fs::path scratch(const std::string& name, std::string_view bytes) {
  const fs::path file = scratch_folder() / name;
  fs::create_directories(file.parent_path());
  write_file(file, std::string(bytes));
  return file;
}

std::vector<std::string> stored_files(const std::vector<fs::path>& folders, std::string_view ending,
                                      size_t largest) {
  std::vector<fs::path> found;
  std::vector<fs::path> roots = {own_test_data().parent_path()};
  if (!test_data().empty()) roots.push_back(test_data());
  for (const fs::path& root : roots) {
    for (const fs::path& folder : folders) {
      if (!fs::is_directory(root / folder)) continue;
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        const bool wanted = entry.is_regular_file() && entry.file_size() <= largest &&
                            entry.path().filename().string().ends_with(ending);
        if (wanted) found.push_back(entry.path());
      }
    }
  }
  std::ranges::sort(found);
  std::vector<std::string> files;
  for (const fs::path& path : found) files.push_back(read_file(path));
  return files;
}

Json tiny_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 32},
          {"intermediate_size", 64},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"max_position_embeddings", 64},
          {"vocab_size", 32},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"torch_dtype", "float32"}};
}

std::string tiny_safetensors() {
  const std::string block = "model.layers.0.";
  const std::vector<std::pair<std::string, Shape>> tensors = {
      {"model.embed_tokens.weight", {32, 32}},
      {block + "input_layernorm.weight", {32}},
      {block + "post_attention_layernorm.weight", {32}},
      {block + "self_attn.q_proj.weight", {32, 32}},
      {block + "self_attn.k_proj.weight", {16, 32}},
      {block + "self_attn.v_proj.weight", {16, 32}},
      {block + "self_attn.o_proj.weight", {32, 32}},
      {block + "mlp.gate_proj.weight", {64, 32}},
      {block + "mlp.up_proj.weight", {64, 32}},
      {block + "mlp.down_proj.weight", {32, 64}},
      {"model.norm.weight", {32}},
      {"lm_head.weight", {32, 32}}};
  SafetensorsHeader header;
  int64_t end = 0;
  for (const auto& [name, shape] : tensors) {
    const int64_t begin = end;
    end += byte_count(Dtype::kF32, shape);
    header.entries.push_back({{name, Dtype::kF32, shape}, begin, end});
  }
  return safetensors_header_bytes(header) + std::string(static_cast<size_t>(end), '\0');
}

}  // namespace nibble
