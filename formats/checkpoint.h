// Checkpoint: a model folder in Hugging Face layout, opened for reading. Tensors are mapped, not
// read; a tensor's bytes come from the file when they are touched.
//
// The writer is formats/checkpoint_writer.h; the file format is formats/safetensors.h.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/tensor/tensor.h"

namespace nibble {

// A tensor and the file that holds it.
struct StoredTensor {
  TensorInfo info;
  std::filesystem::path file;
};

class SafetensorsFile;

class Checkpoint {
 public:
  // folder: config.json and model.safetensors, or shards with model.safetensors.index.json; a
  // safetensors file itself is accepted too: then config.json beside it is optional. Throws Error
  // for whatever formats/safetensors.h refuses, for an index that disagrees with its shards in
  // either direction, for a missing shard, a name in two shards, a path that leaves the folder, and
  // for two weight files that compete.
  static Checkpoint open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const Json& config() const { return config_; }
  // config.json's quantization_config, or that of quantize_config.json / quant_config.json beside
  // it; null when there is none.
  const Json& quantization_config() const { return quantization_config_; }

  // In the order of name.
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  // Throws Error naming the folder and the nearest known name.
  const StoredTensor& info(const std::string& name) const;
  // Keeps the mapping alive. Throws as info().
  Tensor tensor(const std::string& name) const;
  // Tells the system that the mapped pages of this tensor are not needed soon.
  void release(const std::string& name) const;
  // __metadata__ of all files, merged (first file wins).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Everything else in the folder that a copy of the model needs: tokenizer, generation config,
  // licence; not weights, not an index, not config.json, not a quantization config, no folders.
  std::vector<std::filesystem::path> side_files() const;
  int64_t bytes() const;  // of all tensors

 private:
  void add(std::shared_ptr<const SafetensorsFile> file);

  std::filesystem::path folder_;
  Json config_;
  Json quantization_config_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::filesystem::path, std::shared_ptr<const SafetensorsFile>> files_;
};

}  // namespace nibble
