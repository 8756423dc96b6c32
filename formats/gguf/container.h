// GgufFile: one GGUF file, version 2 or 3, mapped for reading; and the header that a writer puts
// before the data. Page: formats/gguf.md. Source: ggml, docs/gguf.md and src/gguf.cpp.
//
// What its tensors are to a model is formats/gguf/names.h; what their blocks mean is
// formats/gguf/blocks.h.
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
#include "formats/gguf/types.h"
#include "formats/mapped_file.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct GgufTensor {
  std::string name;
  const GgufType* type = nullptr;
  Shape shape;         // outermost first: [N, K] of a weight, the reverse of the file's
  int64_t offset = 0;  // from the begin of the data
  int64_t bytes = 0;
};

// Bytes of a tensor. Throws Error(where, ...) for a row that is no multiple of the type's block, a
// dimension below 1, more than four of them, and a size beyond int64.
int64_t gguf_bytes(const GgufType& type, const Shape& shape, const std::string& where);

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the order of their data
  int64_t alignment = 32;           // of the data and of every tensor
  int64_t data_begin = 0;
};

// file: the whole file. where: its name, for messages. Throws Error naming the key or tensor for
// every count, length, type, name, dimension or offset that the format does not allow, and for what
// lies beyond the end of the file. Bytes after the last tensor are allowed, as in llama.cpp.
GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& where);

// The bytes of a file before its data, of version 3: header.alignment, the offsets and
// header.data_begin are set here; the alignment comes from 'general.alignment', if it is there.
std::string gguf_header_bytes(GgufHeader& header, const std::string& where);

class GgufFile {
 public:
  // Throws Error as parse_gguf.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  const GgufMetadata& metadata() const { return header_.metadata; }
  const std::vector<GgufTensor>& tensors() const { return header_.tensors; }
  // Null if there is none of that name.
  const GgufTensor* find(const std::string& name) const;

  // Mapped, read-only.
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  void release(const GgufTensor& tensor) const { file_.release(bytes(tensor)); }

 private:
  explicit GgufFile(const std::filesystem::path& file);

  MappedFile file_;
  GgufHeader header_;
  std::map<std::string, size_t> index_;  // name -> place in header_.tensors
};

}  // namespace nibble
