#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "src/tensor/error.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped as they are stored");

// Closes what it holds.
class FileDescriptor {
 public:
  explicit FileDescriptor(const std::filesystem::path& file)
      : value_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

std::span<const std::byte> map_file(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);  // a pipe would block open
  if (!std::filesystem::exists(status)) {
    throw Error(file.string(), "no such file", "is a shard missing?");
  }
  if (!std::filesystem::is_regular_file(status)) throw Error(file.string(), "not a regular file");
  const FileDescriptor descriptor(file);
  struct stat info {};
  if (descriptor.value() < 0 || ::fstat(descriptor.value(), &info) != 0) {
    throw Error(file.string(), std::string("cannot be opened: ") + std::strerror(errno));
  }
  const auto bytes = static_cast<size_t>(info.st_size);
  if (bytes == 0) return {};
  void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor.value(), 0);
  if (address == MAP_FAILED) {
    throw Error(file.string(), std::string("cannot be mapped: ") + std::strerror(errno));
  }
  return {static_cast<const std::byte*>(address), bytes};
}

}  // namespace

MappedFile::MappedFile(std::filesystem::path file)
    : path_(std::move(file)), bytes_(map_file(path_)) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (part.empty()) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t before = reinterpret_cast<uintptr_t>(part.data()) % page;
  // A neighbour's bytes on the first and last page come back from the file as well.
  auto* begin = const_cast<std::byte*>(part.data() - before);
  ::madvise(begin, part.size() + before, MADV_DONTNEED);
}

}  // namespace nibble
