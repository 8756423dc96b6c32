#include "formats/gguf/writer.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/atomic_folder.h"
#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "src/tensor/error.h"

namespace nibble {

class GgufWriter::State {
 public:
  State(const std::filesystem::path& target, bool replace, GgufMetadata metadata,
        std::vector<GgufTensor> tensors)
      : file(target, replace) {
    header.metadata = std::move(metadata);
    header.tensors = std::move(tensors);
    const std::string bytes = gguf_header_bytes(header, file.target().string());
    size = std::ssize(bytes);
    for (const GgufTensor& tensor : header.tensors) {
      size = header.data_begin + tensor.offset + tensor.bytes;
      unwritten.emplace(tensor.name, &tensor);
    }
    // llama.cpp's own files end aligned too.
    size = (size + header.alignment - 1) / header.alignment * header.alignment;
    file.output().reserve(size);
    file.output().write_at(0, bytes);
  }

  std::string where(const std::string& tensor) const {
    return tensor_place(file.target().string(), tensor);
  }

  AtomicFile file;
  GgufHeader header;
  int64_t size = 0;
  std::map<std::string, const GgufTensor*> unwritten;
  std::mutex mutex;  // of unwritten
};

GgufWriter::GgufWriter(const std::filesystem::path& file, bool replace, GgufMetadata metadata,
                       std::vector<GgufTensor> tensors)
    : state_(std::make_unique<State>(file, replace, std::move(metadata), std::move(tensors))) {}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const GgufTensor* tensor = nullptr;
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->unwritten.find(name);
    if (found == state_->unwritten.end()) {
      throw Error(state_->where(name), "written twice or not declared");
    }
    tensor = found->second;
    state_->unwritten.erase(found);
  }
  if (std::ssize(bytes) != tensor->bytes) {
    throw Error(state_->where(name), std::to_string(bytes.size()) + " bytes written, " +
                                         std::to_string(tensor->bytes) + " declared");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  state_->file.output().write_at(state_->header.data_begin + tensor->offset, text);
}

int64_t GgufWriter::finish() {
  if (!state_->unwritten.empty()) {
    throw Error(state_->where(state_->unwritten.begin()->first),
                "declared but never written (" + std::to_string(state_->unwritten.size()) +
                    " such tensors)");
  }
  state_->file.commit();
  return state_->size;
}

const std::filesystem::path& GgufWriter::temporary_file() const { return state_->file.path(); }

const std::vector<std::filesystem::path>& GgufWriter::removed() const {
  return state_->file.removed();
}

}  // namespace nibble
