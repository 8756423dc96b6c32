// GgufModelWriter: a model in one GGUF file, under the interface of CheckpointWriter: tensors are
// declared and written under our names, in our shapes and row order, and lie in the file as
// llama.cpp reads them. The counterpart of src/model/open_checkpoint.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/gguf/metadata.h"
#include "formats/gguf/names.h"
#include "formats/gguf/writer.h"
#include "formats/json.h"
#include "src/model/config.h"
#include "src/tensor/tensor.h"

namespace nibble {

class GgufModelWriter {
 public:
  // config: the output's config.json. model: the folder or GGUF file that the tokenizer comes from;
  // its name becomes the model's. manifest: kept in the file as text; the scheme of its recipe, if
  // it is one of llama.cpp's mixtures, gives general.file_type. Throws Error for a model that
  // llama.cpp's architectures do not compute (see formats/gguf.md).
  GgufModelWriter(const std::filesystem::path& file, bool replace, const Json& config,
                  const std::filesystem::path& model, const Json& manifest);

  // Throws Error for a tensor that has no place in such a file.
  void declare(const TensorInfo& tensor);
  void plan();
  // bytes: as declared. Throws Error as GgufWriter::write.
  void write(const std::string& name, std::span<const std::byte> bytes);
  int64_t finish() { return writer_->finish(); }
  // Where the file is until finish.
  const std::filesystem::path& temporary_file() const { return writer_->temporary_file(); }
  // Likewise, after plan.
  const std::vector<std::filesystem::path>& removed() const { return writer_->removed(); }

  // The type in which a tensor that is not quantized must be stored: F32 for vectors and learned
  // positions, which llama.cpp has in no other; what it is otherwise.
  static Dtype stored_dtype(const TensorInfo& tensor);

 private:
  struct Stored {
    TensorInfo info;
    GgufTensor tensor;
    const GgufModule* module = nullptr;
  };
  int64_t head_rows(const GgufModule& module) const;

  std::filesystem::path file_;
  bool replace_;
  std::string scheme_;  // of the recipe, or ""
  Config config_;
  GgufMetadata metadata_;
  std::vector<GgufModule> modules_;
  std::map<std::string, Stored> stored_;  // by our names
  std::vector<std::string> order_;        // of declaration
  std::vector<float> rope_factors_;       // [head_size / 2], or empty
  std::unique_ptr<GgufWriter> writer_;
};

}  // namespace nibble
