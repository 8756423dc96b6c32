// Checkpoint: a model folder in Hugging Face layout, opened for reading. Tensors are mapped, not
// read; a tensor's bytes come from the file when they are touched. Models in other containers
// present themselves as one: src/model/open_checkpoint.h.
//
// The writer is formats/checkpoint_writer.h; the file format is formats/safetensors.h.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {

// A tensor and the file that holds it.
struct StoredTensor {
  TensorInfo info;
  std::filesystem::path file;
};

// A tensor that another container holds, or that is made when it is asked for.
struct TensorSource {
  StoredTensor stored;
  std::function<Tensor()> load;
  std::function<void()> release;
};

// A file beside the weights, as it would stand in the folder.
struct SideFile {
  std::string name;
  std::string bytes;
};

// What a reader that goes on after an error found wrong.
using Findings = std::vector<Error>;

class SafetensorsFile;

class Checkpoint {
 public:
  // folder: config.json and model.safetensors, or shards with model.safetensors.index.json; a
  // safetensors file itself is accepted too: then config.json beside it is optional. Throws Error
  // for whatever formats/safetensors.h refuses, for an index that disagrees with its shards in
  // either direction, for a missing shard, a name in two shards, a path that leaves the folder, and
  // for two weight files that compete.
  // With findings, what is wrong with single files, tensors and entries of the index is added there
  // and the rest is opened; config() is null where it cannot be read.
  static Checkpoint open(const std::filesystem::path& folder, Findings* findings = nullptr);

  // A model in another container. file: what folder() is then. Throws Error for a name that comes
  // twice.
  static Checkpoint made_of(const std::filesystem::path& file, Json config,
                            std::vector<TensorSource> tensors, std::vector<SideFile> side_files);

  const std::filesystem::path& folder() const { return folder_; }
  const Json& config() const { return config_; }
  // config.json's quantization_config, or that of quantize_config.json, quant_config.json or
  // hf_quant_config.json beside it; null when there is none.
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
  // Such files of a model in another container, made from what that says.
  const std::vector<SideFile>& made_files() const { return made_files_; }
  int64_t bytes() const;                                    // of all tensors
  std::vector<std::filesystem::path> weight_files() const;  // that were opened

 private:
  void add(std::shared_ptr<const SafetensorsFile> file, Findings* findings);

  std::filesystem::path folder_;
  Json config_;
  Json quantization_config_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::filesystem::path, std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, TensorSource> sources_;  // of the tensors that are in none of files_
  std::vector<SideFile> made_files_;
};

}  // namespace nibble
