// GgufWriter: a GGUF file, written whole or not at all.
//
//   GgufWriter writer(file, replace, metadata, tensors)
//   write* finish
//
// Everything goes to a temporary file beside the target, which finish syncs and renames; the
// destructor removes what was not finished.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"

namespace nibble {

class GgufWriter {
 public:
  // tensors: names, types and shapes, in the order of their data; offsets and bytes are computed.
  // Throws Error when the target exists and is not to be replaced, for what gguf_header_bytes
  // refuses, and when there is not enough space.
  GgufWriter(const std::filesystem::path& file, bool replace, GgufMetadata metadata,
             std::vector<GgufTensor> tensors);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  // bytes: exactly the tensor's. Throws Error for an unknown or already written name and when the
  // disk refuses. Thread-safe.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // Throws Error naming a tensor that was never written. Returns the bytes of the file.
  int64_t finish();
  // Where the file is until finish.
  const std::filesystem::path& temporary_file() const;
  // Leftovers of killed processes that were removed: formats/atomic_folder.h.
  const std::vector<std::filesystem::path>& removed() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
