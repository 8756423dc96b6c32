// CheckpointWriter: a model folder in Hugging Face layout, written whole or not at all.
//
//   CheckpointWriter writer(folder, options);
//   declare* plan (write | write_file)* (finish | abandon)
//
// declare fixes every tensor's place, so that writes may come in any order and from several
// threads. Everything goes to a temporary folder beside the target ("<name>.partial-<pid>"); finish
// syncs and renames it. The destructor abandons what was not finished.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct CheckpointWriterOptions {
  int64_t shard_bytes = 5'000'000'000;  // limit of one file; a larger tensor has its own
  bool replace = false;                 // an existing folder is replaced, at finish, atomically
};

class CheckpointWriter {
 public:
  // Throws Error when the target exists (an empty folder is allowed) and is not to be replaced,
  // when it is to be but does not look like a model's folder, and when its parent cannot be
  // written.
  CheckpointWriter(const std::filesystem::path& folder, CheckpointWriterOptions options);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Before plan. Tensors are laid out in the order of declaration across shards; inside one file by
  // descending alignment of the dtype, then by name. A duplicate is an error.
  void declare(TensorInfo tensor);
  // Fixes shards, headers, offsets and the index, and reserves the disk space (an Error says how
  // much is missing). metadata: "format": "pt" is added.
  void plan();

  // bytes: exactly the declared size, row-major. Throws Error for an unknown or already written
  // name and when the disk refuses. Thread-safe.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // A side file, by its name in the folder.
  void write_file(const std::string& name, std::string_view bytes);
  void copy_file(const std::filesystem::path& source);
  void write_json(const std::string& name, const Json& value);

  // Throws Error naming a declared tensor that was never written. Returns the bytes of all files.
  int64_t finish();
  void abandon();
  // Where the files are until finish; all of them, once everything declared is written.
  const std::filesystem::path& temporary_folder() const;
  // Leftovers of killed processes that were removed: formats/atomic_folder.h.
  const std::vector<std::filesystem::path>& removed() const;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
