// MappedFile: a whole file mapped for reading; owns the mapping.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace nibble {

class MappedFile {
 public:
  // Throws Error for what is no regular file or cannot be mapped.
  explicit MappedFile(std::filesystem::path file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  // The pages of this part leave memory; they come back from the file when touched.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace nibble
