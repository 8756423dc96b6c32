// SafetensorsFile: one safetensors file, mapped for reading; and the header that a writer puts
// before the data. The format: 8 bytes of header length (little-endian), a JSON header, the data.
// https://github.com/huggingface/safetensors, README.md and safetensors/src/tensor.rs.
//
// A folder of such files is formats/checkpoint.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mapped_file.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Beside the files of a checkpoint that has several: the file of each tensor.
inline constexpr const char* kIndexFile = "model.safetensors.index.json";

// A tensor and its place, in bytes from the end of the header.
struct SafetensorsEntry {
  TensorInfo info;
  int64_t begin = 0;
  int64_t end = 0;
};

// The header of a file: what the reader checks and the writer produces.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by begin, end, name
  std::map<std::string, std::string> metadata;
};

// text: the JSON alone. where: the file's name, for messages. Throws Error for a text that is not
// such a header, for a duplicate name or key, an unknown dtype or key, a size that overflows or
// disagrees with shape and dtype, and for data that are not contiguous from 0 to data_bytes.
SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t data_bytes,
                                           const std::string& where);

// The bytes of a file before its data, length included, a multiple of 8.
std::string safetensors_header_bytes(const SafetensorsHeader& header);

// The order of the reference writer inside a file: by descending alignment of the dtype, then by
// name.
bool precedes_in_file(const TensorInfo& a, const TensorInfo& b);

class SafetensorsFile {
 public:
  // Throws Error naming the file, and the tensor where there is one.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& file);
  ~SafetensorsFile() = default;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return file_.path(); }
  const SafetensorsHeader& header() const { return header_; }
  int64_t header_bytes() const { return data_begin_ - 8; }
  // Null if there is none of that name.
  const SafetensorsEntry* find(const std::string& name) const;

  // Mapped, read-only.
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  // The pages of this tensor leave memory; they come back from the file when touched.
  void release(const SafetensorsEntry& entry) const;

 private:
  explicit SafetensorsFile(const std::filesystem::path& file);

  MappedFile file_;
  SafetensorsHeader header_;
  std::map<std::string, size_t> index_;  // name -> place in header_.entries
  int64_t data_begin_ = 0;
};

}  // namespace nibble
