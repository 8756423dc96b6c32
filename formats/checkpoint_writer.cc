#include "formats/checkpoint_writer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/atomic_folder.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// number from 1.
std::string shard_name(size_t number, size_t count) {
  if (count == 1) return "model.safetensors";
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", number, count);
  return name.data();
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

class CheckpointWriter::State {
 public:
  State(const fs::path& target, CheckpointWriterOptions given)
      : options(given), folder(target, given.replace) {
    if (options.shard_bytes <= 0) throw Error("shard size", "must be positive");
  }

  struct Stored {
    TensorInfo info;
    int64_t bytes = 0;
    size_t shard = 0;
    int64_t offset = 0;    // in the shard's file
    bool claimed = false;  // a write began
    bool written = false;
  };

  std::string where(const std::string& tensor) const {
    return tensor_place(folder.target().string(), tensor);
  }

  // Cuts the tensors, in the order of declaration, into shards of at most shard_bytes.
  size_t assign_shards() {
    size_t shard = 0;
    int64_t used = 0;
    for (Stored& tensor : tensors) {
      if (used > 0 && used > options.shard_bytes - tensor.bytes) {
        ++shard;
        used = 0;
      }
      tensor.shard = shard;
      used += tensor.bytes;
    }
    return shard + 1;
  }

  // Fixes the places of a shard's tensors and writes its header.
  void create_shard(std::vector<Stored*> members, const std::string& name) {
    std::sort(members.begin(), members.end(),
              [](const Stored* a, const Stored* b) { return precedes_in_file(a->info, b->info); });
    SafetensorsHeader header;
    header.metadata["format"] = "pt";
    int64_t place = 0;
    for (const Stored* tensor : members) {
      header.entries.push_back({tensor->info, place, place + tensor->bytes});
      place += tensor->bytes;
    }
    const std::string bytes = safetensors_header_bytes(header);
    const auto data_begin = static_cast<int64_t>(bytes.size());
    for (size_t i = 0; i < members.size(); ++i) {
      members[i]->offset = data_begin + header.entries[i].begin;
    }
    OutputFile file(folder.path() / name);
    file.reserve(data_begin + place);
    file.write_at(0, bytes);
    shards.push_back(std::move(file));
  }

  // The tensor that a write is for, marked as begun.
  Stored& claim(const std::string& name, size_t bytes) {
    const std::lock_guard lock(mutex);
    const auto found = by_name.find(name);
    if (!planned || found == by_name.end()) throw Error(where(name), "written but not planned");
    Stored& tensor = tensors[found->second];
    if (bytes != static_cast<size_t>(tensor.bytes)) {
      throw Error(where(name), std::to_string(bytes) + " bytes written, " +
                                   std::to_string(tensor.bytes) + " declared");
    }
    if (std::exchange(tensor.claimed, true)) throw Error(where(name), "written twice");
    return tensor;
  }

  void check_complete() const {
    if (!planned) throw Error(folder.target().string(), "finished without a plan");
    const auto missing = [](const Stored& tensor) { return !tensor.written; };
    const auto first = std::find_if(tensors.begin(), tensors.end(), missing);
    if (first == tensors.end()) return;
    throw Error(where(first->info.name),
                "declared but never written (" +
                    std::to_string(std::count_if(first, tensors.end(), missing)) +
                    " such tensors)");
  }

  void write_index() const {
    int64_t total = 0;
    std::map<std::string, std::string> weight_map;
    for (const Stored& tensor : tensors) {
      total += tensor.bytes;
      weight_map[tensor.info.name] = shards[tensor.shard].path().filename().string();
    }
    Json json;
    json["metadata"]["total_size"] = total;
    json["weight_map"] = weight_map;
    OutputFile file(folder.path() / kIndexFile);
    file.write_at(0, json.dump(2) + "\n");
    file.sync();
  }

  // A name that may be given to write_file.
  void check_side_name(const std::string& name) const {
    const std::string place = (folder.target() / name).string();
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      throw Error(place, "not a plain file name");
    }
    if (name.ends_with(".safetensors") || name == kIndexFile) {
      throw Error(place, "a side file may not have the name of a weight file");
    }
  }

  CheckpointWriterOptions options;
  AtomicFolder folder;
  std::vector<Stored> tensors;  // in the order of declaration
  std::unordered_map<std::string, size_t> by_name;
  std::vector<OutputFile> shards;
  bool planned = false;
  std::mutex mutex;  // of the tensors' marks
};

CheckpointWriter::CheckpointWriter(const fs::path& folder, CheckpointWriterOptions options) try
    : state_(std::make_unique<State>(folder, options)) {
} catch (const fs::filesystem_error& error) {
  throw Error(error.path1().string(), error.code().message());
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::declare(TensorInfo tensor) {
  const std::string where = state_->where(tensor.name);
  if (state_->planned) throw Error(where, "declared after the plan");
  if (tensor.name.empty() || tensor.name == "__metadata__") throw Error(where, "not a tensor name");
  if (element_count(tensor.shape) % 8 != 0 &&
      element_count(tensor.shape) * dtype_bits(tensor.dtype) % 8 != 0) {
    throw Error(where, std::string(dtype_name(tensor.dtype)) + " " + to_string(tensor.shape) +
                           " does not fill whole bytes");
  }
  if (!state_->by_name.emplace(tensor.name, state_->tensors.size()).second) {
    throw Error(where, "declared twice");
  }
  const int64_t bytes = byte_count(tensor.dtype, tensor.shape);
  state_->tensors.push_back({.info = std::move(tensor), .bytes = bytes});
}

void CheckpointWriter::plan() {
  if (state_->planned) throw Error(state_->folder.target().string(), "planned twice");
  const size_t count = state_->assign_shards();
  std::vector<std::vector<State::Stored*>> members(count);
  for (State::Stored& tensor : state_->tensors) members[tensor.shard].push_back(&tensor);
  for (size_t i = 0; i < count; ++i) state_->create_shard(members[i], shard_name(i + 1, count));
  if (count > 1) state_->write_index();
  state_->planned = true;
}

void CheckpointWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  State::Stored& tensor = state_->claim(name, bytes.size());
  state_->shards[tensor.shard].write_at(tensor.offset, as_text(bytes));
  const std::lock_guard lock(state_->mutex);
  tensor.written = true;
}

void CheckpointWriter::write_file(const std::string& name, std::string_view bytes) {
  state_->check_side_name(name);
  OutputFile file(state_->folder.path() / name);
  file.write_at(0, bytes);
  file.sync();
}

void CheckpointWriter::copy_file(const fs::path& source) {
  std::ifstream file(source, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad() || fs::is_directory(source)) {
    throw Error(source.string(), "cannot be read");
  }
  write_file(source.filename().string(), bytes);
}

void CheckpointWriter::write_json(const std::string& name, const Json& value) {
  write_file(name, value.dump(2) + "\n");
}

int64_t CheckpointWriter::finish() {
  state_->check_complete();
  for (OutputFile& shard : state_->shards) shard.sync();
  int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(state_->folder.path())) {
    bytes += static_cast<int64_t>(entry.file_size());
  }
  state_->folder.commit();
  return bytes;
}

void CheckpointWriter::abandon() {
  state_->shards.clear();
  state_->folder.abandon();
}

const fs::path& CheckpointWriter::temporary_folder() const { return state_->folder.path(); }

const std::vector<fs::path>& CheckpointWriter::removed() const { return state_->folder.removed(); }

}  // namespace nibble
