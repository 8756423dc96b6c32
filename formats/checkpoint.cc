#include "formats/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "formats/safetensors.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr std::array<const char*, 3> kQuantizationFiles = {
    "quantize_config.json", "quant_config.json", "hf_quant_config.json"};

bool is_safetensors(const fs::path& file) { return file.extension() == ".safetensors"; }

bool is_pickle(const fs::path& file) {
  const fs::path extension = file.extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt" ||
         extension == ".pkl";
}

// Files that hold weights or their index, in any framework's format.
bool holds_weights(const fs::path& file) {
  const std::string name = file.filename().string();
  const fs::path extension = file.extension();
  return is_safetensors(file) || is_pickle(file) || name.ends_with(".index.json") ||
         extension == ".gguf" || extension == ".h5" || extension == ".msgpack" ||
         extension == ".onnx" || extension == ".npz";
}

bool is_quantization_file(const fs::path& file) {
  return std::any_of(kQuantizationFiles.begin(), kQuantizationFiles.end(),
                     [&](const char* name) { return file.filename() == name; });
}

// Regular files directly in the folder (links to them too), by name.
std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

[[noreturn]] void refuse_gguf(const fs::path& file) {
  throw Error(file.string(), "a GGUF file, where a folder is needed",
              "give the path of the file itself, to a command that reads models");
}

[[noreturn]] void refuse_pickle(const fs::path& file, const std::string& found) {
  throw Error(file.string(), found + "a pickle, which is not read (it may run code)",
              "load it in transformers and save_pretrained(folder, safe_serialization=True)");
}

// What to say about a folder that has neither model.safetensors nor its index.
[[noreturn]] void refuse_folder(const fs::path& folder) {
  const std::vector<fs::path> files = files_in(folder);
  const std::string expected = std::string("no ") + kSingleFile + " and no " + kIndexFile;
  const auto first = [&](auto predicate) {
    const auto found = std::find_if(files.begin(), files.end(), predicate);
    return found == files.end() ? std::string() : found->filename().string();
  };
  if (const std::string name = first(is_safetensors); !name.empty()) {
    const bool shard = name.find("-of-") != std::string::npos;
    throw Error(folder.string(), expected + ", but " + name,
                shard ? "the index is missing: incomplete download?"
                      : "give the path of that file to read it alone");
  }
  if (const std::string name = first(is_pickle); !name.empty()) {
    refuse_pickle(folder / name, expected + ", but ");
  }
  const std::string gguf = first([](const fs::path& f) { return f.extension() == ".gguf"; });
  if (!gguf.empty()) refuse_gguf(folder / gguf);
  throw Error(folder.string(), expected, "is it a model folder in Hugging Face layout?");
}

Json read_object(const fs::path& file) {
  Json value = read_json(file);
  if (!value.is_object()) throw Error(file.string(), "not a JSON object");
  return value;
}

Json find_quantization_config(const fs::path& folder, const Json& config) {
  const auto found = config.find("quantization_config");
  if (found != config.end() && !found->is_null()) {
    if (!found->is_object()) {
      throw Error((folder / "config.json").string(), "quantization_config is not an object");
    }
    return *found;
  }
  for (const char* name : kQuantizationFiles) {
    if (fs::exists(folder / name)) return read_object(folder / name);
  }
  return nullptr;
}

// A shard is named by a plain file name; anything else might leave the folder.
void check_shard_name(const std::string& shard, const std::string& where) {
  const bool control = std::any_of(shard.begin(), shard.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (control || shard.empty() || shard == "." || shard == ".." ||
      shard.find_first_of("/\\") != std::string::npos) {
    throw Error(where, "its file is not a plain file name of the folder");
  }
}

// tensor -> shard
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const Json json = read_object(index);
  const auto found = json.find("weight_map");
  if (found == json.end() || !found->is_object() || found->empty()) {
    throw Error(index.string(), "no weight_map with tensors in it");
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : found->items()) {
    const std::string where = tensor_place(index.string(), tensor);
    if (!shard.is_string()) throw Error(where, "its file is not a string");
    check_shard_name(shard.get_ref<const std::string&>(), where);
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  return weight_map;
}

// Ends the reading, or goes on where findings are collected.
void report(Findings* findings, Error error) {
  if (findings == nullptr) throw error;
  findings->push_back(std::move(error));
}

// What `read` throws is reported; whether it threw nothing.
template <typename Read>
bool attempt(Findings* findings, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    report(findings, error);
    return false;
  }
  return true;
}

// Every tensor is in the shard that the index names, and in no other; shards that were not opened
// say nothing.
void check_index(const fs::path& index, const std::map<std::string, std::string>& weight_map,
                 const std::map<std::string, StoredTensor>& tensors,
                 const std::set<std::string>& unopened, Findings* findings) {
  for (const auto& [name, shard] : weight_map) {
    const auto found = tensors.find(name);
    const std::string actual =
        found == tensors.end() ? "no shard" : found->second.file.filename().string();
    if (actual == shard || (found == tensors.end() && unopened.contains(shard))) continue;
    report(findings,
           {tensor_place(index.string(), name), "in " + actual + ", but the index says " + shard});
  }
  for (const auto& [name, stored] : tensors) {
    if (weight_map.contains(name)) continue;
    report(findings,
           {tensor_place(stored.file.string(), name), "not in " + index.filename().string()});
  }
}

// The files that hold a folder's tensors.
struct WeightFiles {
  std::vector<fs::path> files;
  std::map<std::string, std::string> map;  // of the index: tensor -> file; empty without one
};

WeightFiles find_weights(const fs::path& folder) {
  const fs::path single = folder / kSingleFile;
  const fs::path index = folder / kIndexFile;
  if (!fs::exists(index)) {
    if (!fs::exists(single)) refuse_folder(folder);
    return {{single}, {}};
  }
  WeightFiles weights;
  weights.map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weights.map) shards.insert(shard);
  if (fs::exists(single) && (shards.size() > 1 || !shards.contains(kSingleFile))) {
    throw Error(folder.string(), std::string(kSingleFile) + " and " + kIndexFile + " compete",
                "remove the one that is stale");
  }
  for (const std::string& shard : shards) weights.files.push_back(folder / shard);
  return weights;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder, Findings* findings) try {
  if (!fs::exists(folder)) {
    throw Error(folder.empty() ? "''" : folder.string(), "no such file or folder");
  }
  const bool is_folder = fs::is_directory(folder);
  if (!is_folder && folder.extension() == ".gguf") refuse_gguf(folder);
  if (!is_folder && is_pickle(folder)) refuse_pickle(folder, "");

  Checkpoint checkpoint;
  checkpoint.folder_ = is_folder                  ? folder
                       : folder.has_parent_path() ? folder.parent_path()
                                                  : fs::path(".");
  const WeightFiles weights = is_folder ? find_weights(folder) : WeightFiles{{folder}, {}};
  const fs::path config = checkpoint.folder_ / "config.json";
  if (is_folder && !fs::exists(config)) {
    throw Error(folder.string(), "no config.json", "is it a model folder in Hugging Face layout?");
  }
  std::set<std::string> unopened;
  for (const fs::path& file : weights.files) {
    const bool opened =
        attempt(findings, [&] { checkpoint.add(SafetensorsFile::open(file), findings); });
    if (!opened) unopened.insert(file.filename().string());
  }
  if (!weights.map.empty()) {
    check_index(folder / kIndexFile, weights.map, checkpoint.tensors_, unopened, findings);
  }
  if (fs::exists(config)) {
    attempt(findings, [&] {
      checkpoint.config_ = read_object(config);
      checkpoint.quantization_config_ =
          find_quantization_config(checkpoint.folder_, checkpoint.config_);
    });
  }
  return checkpoint;
} catch (const fs::filesystem_error& error) {
  throw Error(error.path1().string(), error.code().message(), "is it readable?");
}

Checkpoint Checkpoint::made_of(const fs::path& file, Json config, std::vector<TensorSource> tensors,
                               std::vector<SideFile> side_files) {
  Checkpoint checkpoint;
  checkpoint.folder_ = file;
  checkpoint.quantization_config_ = find_quantization_config(file, config);
  checkpoint.config_ = std::move(config);
  for (TensorSource& source : tensors) {
    const std::string name = source.stored.info.name;
    if (!checkpoint.tensors_.emplace(name, source.stored).second) {
      throw Error(tensor_place(file.string(), name), "is there twice");
    }
    checkpoint.sources_.emplace(name, std::move(source));
  }
  checkpoint.made_files_ = std::move(side_files);
  return checkpoint;
}

void Checkpoint::add(std::shared_ptr<const SafetensorsFile> file, Findings* findings) {
  for (const SafetensorsEntry& entry : file->header().entries) {
    const auto [place, is_new] =
        tensors_.emplace(entry.info.name, StoredTensor{entry.info, file->path()});
    if (!is_new) {
      report(findings, {tensor_place(file->path().string(), entry.info.name),
                        "also in " + place->second.file.filename().string()});
    }
  }
  metadata_.insert(file->header().metadata.begin(), file->header().metadata.end());
  files_.emplace(file->path(), std::move(file));
}

const StoredTensor& Checkpoint::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  std::vector<std::string> known;
  known.reserve(tensors_.size());
  for (const auto& [other, stored] : tensors_) known.push_back(other);
  const std::string nearest = nearest_name(name, known);
  throw Error(folder_.string(), "no tensor '" + name + "'",
              nearest.empty() ? "" : "the nearest name is '" + nearest + "'");
}

Tensor Checkpoint::tensor(const std::string& name) const {
  const StoredTensor& stored = info(name);
  if (const auto source = sources_.find(name); source != sources_.end()) {
    return source->second.load();
  }
  const auto& file = files_.at(stored.file);
  return Tensor::borrow({stored.info.dtype, stored.info.shape, file->bytes(*file->find(name))},
                        file);
}

void Checkpoint::release(const std::string& name) const {
  if (const auto source = sources_.find(name); source != sources_.end()) {
    return source->second.release();
  }
  const auto& file = files_.at(info(name).file);
  file->release(*file->find(name));
}

std::vector<fs::path> Checkpoint::side_files() const {
  if (!fs::is_directory(folder_)) return {};
  std::vector<fs::path> files = files_in(folder_);
  std::erase_if(files, [](const fs::path& file) {
    const std::string name = file.filename().string();
    return holds_weights(file) || is_quantization_file(file) || name == "config.json" ||
           name.starts_with('.');
  });
  return files;
}

std::vector<fs::path> Checkpoint::weight_files() const {
  std::vector<fs::path> files;
  for (const auto& [path, file] : files_) files.push_back(path);
  return files;
}

int64_t Checkpoint::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, stored] : tensors_) {
    sum += byte_count(stored.info.dtype, stored.info.shape);
  }
  return sum;
}

}  // namespace nibble
