#include "src/pipeline/write_model.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "formats/atomic_folder.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"
#include "formats/format.h"
#include "formats/gguf/blocks.h"
#include "formats/gguf/types.h"
#include "formats/manifest.h"
#include "src/architecture/architecture.h"
#include "src/model/gguf_writer.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/fingerprint.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/progress.h"
#include "src/pipeline/quantize.h"
#include "src/pipeline/side_by_side.h"
#include "src/quantized/ggml_fit.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kConvertElements = int64_t{1} << 22;  // at a time: 16 MiB of floats

// A tensor in another float type; what is too large for it is an Error with its place.
Tensor converted(const Tensor& source, const TensorInfo& target, int64_t& flushed) {
  Tensor result = Tensor::allocate(target.dtype, target.shape);
  const int64_t count = source.elements();
  const int64_t in_bytes = dtype_bits(source.dtype()) / 8;
  const int64_t out_bytes = dtype_bits(target.dtype) / 8;
  std::vector<float> values;
  for (int64_t first = 0; first < count; first += kConvertElements) {
    const int64_t n = std::min(kConvertElements, count - first);
    values.resize(static_cast<size_t>(n));
    const auto part = source.bytes().subspan(first * in_bytes, n * in_bytes);
    to_float({source.dtype(), {n}, part, Device::kCpu}, values);
    const RoundingLoss loss = from_float(
        values, target.dtype, result.mutable_bytes().subspan(first * out_bytes, n * out_bytes));
    if (loss.overflowed > 0) {
      throw Error("tensor '" + target.name + "'",
                  "element " + std::to_string(first + loss.first_overflow) + " = " +
                      std::to_string(values[static_cast<size_t>(loss.first_overflow)]) +
                      " does not fit in " + std::string(dtype_name(target.dtype)),
                  "try --dtype bf16 or f32");
    }
    flushed += loss.flushed;
  }
  return result;
}

// Makes a folder, if it is not there, and removes it again if nothing came to lie in it.
class FolderToFill {
 public:
  explicit FolderToFill(const std::filesystem::path& folder) : folder_(folder) {
    std::error_code error;
    made_ = std::filesystem::create_directory(folder, error);
    if (error) throw Error(folder.string(), "cannot be created: " + error.message());
  }
  ~FolderToFill() {
    std::error_code ignored;
    if (made_) std::filesystem::remove(folder_, ignored);  // an empty one only
  }
  FolderToFill(const FolderToFill&) = delete;
  FolderToFill& operator=(const FolderToFill&) = delete;

 private:
  std::filesystem::path folder_;
  bool made_ = false;
};

void refuse_source(const std::filesystem::path& output, const Checkpoint& source) {
  std::error_code error;
  if (!std::filesystem::equivalent(output, source.folder(), error)) return;
  throw Error(output.string(), "is the model that is read", "choose another name for the output");
}

// Writes one model, remembers hashes of all it wrote, and compares them with what it reads back.
class Run {
 public:
  Run(const ModelOutput& output, const OutputOptions& options, const Progress& progress)
      : output_(output), progress_(progress) {
    refuse_source(options.folder, output.source);
    if (writes_one_file(output.format)) {
      std::filesystem::path file = options.folder;
      if (file.extension() != ".gguf") {
        made_folder_.emplace(file);
        file /= "model.gguf";
        refuse_source(file, output.source);
      }
      file_.emplace(file, options.force, output.config, output.source.folder(), output.manifest);
    } else {
      folder_.emplace(options.folder, CheckpointWriterOptions{.shard_bytes = options.shard_bytes,
                                                              .replace = options.force});
    }
    for (TensorInfo& tensor : output_tensors(output.format, output.modules, output.tensors)) {
      total_bytes_ += byte_count(tensor.dtype, tensor.shape);
      file_ ? file_->declare(tensor) : folder_->declare(std::move(tensor));
    }
    file_ ? file_->plan() : folder_->plan();
    for (const PlannedModule& module : output.modules) {
      if (module.target.scheme) layers_.push_back(&module);
    }
  }

  WrittenModel write(const std::string& stage, const LayerSource& layers) {
    stage_ = stage;
    write_tensors([](const PlannedTensor& tensor) { return !tensor.follows_block; });
    write_layers(layers);
    write_tensors([this](const PlannedTensor& tensor) {
      return tensor.follows_block && !hashes_.contains(tensor.written.name);
    });
    if (folder_) write_side_files();
    std::future<std::vector<FileHash>> hashes = start_hashing();
    verify();
    if (folder_) write_manifest(hashes.get());
    return {.bytes = file_ ? file_->finish() : folder_->finish(),
            .flushed = flushed_,
            .warnings = leftover_warnings(file_ ? file_->removed() : folder_->removed())};
  }

 private:
  void report(int64_t bytes, const std::string& detail) {
    const std::lock_guard lock(mutex_);
    done_bytes_ += bytes;
    if (progress_) progress_({stage_, done_bytes_, total_bytes_, "bytes", detail});
  }

  void write_bytes(const std::string& name, std::span<const std::byte> bytes) {
    file_ ? file_->write(name, bytes) : folder_->write(name, bytes);
  }

  void remember(const std::string& name, const Hash128& hash) {
    const std::lock_guard lock(mutex_);
    hashes_[name] = hash;
  }

  void write_tensors(const std::function<bool(const PlannedTensor&)>& is_due) {
    std::vector<const PlannedTensor*> due;
    for (const PlannedTensor& tensor : output_.tensors) {
      if (is_due(tensor)) due.push_back(&tensor);
    }
    run_side_by_side(due.size(), [&](size_t i) { write_tensor(*due[i]); });
  }

  void write_tensor(const PlannedTensor& planned) {
    const Tensor source = output_.source.tensor(planned.source);
    if (planned.blocks != nullptr) {
      write_blocks(planned, source);
    } else if (source.dtype() == planned.written.dtype) {
      write_bytes(planned.written.name, source.bytes());
    } else {
      int64_t flushed = 0;
      const Tensor result = converted(source, planned.written, flushed);
      remember(planned.written.name, hash_of(result.bytes()));
      write_bytes(planned.written.name, result.bytes());
      const std::lock_guard lock(mutex_);
      flushed_ += flushed;
    }
    output_.source.release(planned.source);
    report(byte_count(planned.written.dtype, planned.written.shape), planned.written.name);
  }

  void write_blocks(const PlannedTensor& planned, const Tensor& source) {
    Matrix W(source.shape()[0], source.shape()[1]);
    to_float(source.view(), {W.data(), static_cast<size_t>(W.size())});
    const std::string where = "tensor '" + planned.written.name + "'";
    const QuantizedLinear q = quantize_ggml(W, *planned.blocks, {}, where);
    const Tensor blocks = encode_blocks(*gguf_type(planned.blocks->name), q, where);
    dequantize_rows(q, float_parameters(q), 0, W);
    remember(planned.written.name,
             hash_of(std::as_bytes(std::span(W.data(), static_cast<size_t>(W.size())))));
    write_bytes(planned.stored().name, blocks.bytes());
  }

  void write_rewritten(const std::vector<NamedTensor>& tensors) {
    for (const NamedTensor& rewritten : tensors) {
      remember(rewritten.name, hash_of(rewritten.tensor.bytes()));
      write_bytes(rewritten.name, rewritten.tensor.bytes());
      report(static_cast<int64_t>(rewritten.tensor.bytes().size()), rewritten.name);
    }
  }

  void write_layers(const LayerSource& layers) {
    if (layers.in_any_order) {
      run_side_by_side(layers_.size(),
                       [&](size_t i) { write_layer(*layers_[i], layers.make(*layers_[i])); });
      return;
    }
    for (const PlannedModule* module : layers_) {
      write_layer(*module, layers.make(*module));
      if (layers.take_rewritten) write_rewritten(layers.take_rewritten());
    }
  }

  void write_layer(const PlannedModule& module, const QuantizedLinear& q) {
    const bool dense = is_dense();
    if (!dense) remember(module.target.name, hash_of(q));
    int64_t bytes = 0;
    for (const NamedTensor& part : output_.format.encode(module.target, q)) {
      if (dense) remember(part.name, hash_of(part.tensor.bytes()));
      write_bytes(part.name, part.tensor.bytes());
      bytes += static_cast<int64_t>(part.tensor.bytes().size());
    }
    report(bytes, module.target.name);
  }

  // A format without a configuration of its own leaves plain tensors.
  bool is_dense() const { return !output_.config.contains("quantization_config"); }

  void write_side_files() {
    folder_->write_json("config.json", output_.config);
    if (!is_dense() && !output_.format.config_file.empty()) {
      folder_->write_json(std::string(output_.format.config_file),
                          output_.config.at("quantization_config"));
    }
    for (const std::filesystem::path& file : output_.source.side_files()) {
      if (file.filename() != kManifestFile) folder_->copy_file(file);
    }
    for (const SideFile& file : output_.source.made_files()) {
      folder_->write_file(file.name, file.bytes);
    }
  }

  // Beside the verification, which reads the same pages.
  std::future<std::vector<FileHash>> start_hashing() const {
    if (!folder_) return {};
    return std::async(std::launch::async, hash_files, folder_->temporary_folder(),
                      omp_get_max_threads());
  }

  void write_manifest(const std::vector<FileHash>& files) {
    Json manifest = output_.manifest;
    manifest["files"] = files_to_json(files);
    folder_->write_json(kManifestFile, manifest);
  }

  void verify() {
    stage_ = "verifying";
    done_bytes_ = 0;
    const Checkpoint written =
        open_checkpoint(file_ ? file_->temporary_file() : folder_->temporary_folder());
    const ModelLayout layout = read_layout(written);
    run_side_by_side(output_.tensors.size(),
                     [&](size_t i) { verify_tensor(written, output_.tensors[i]); });
    std::map<std::string, const LinearModule*> modules;
    for (const LinearModule& module : layout.linears) modules[module.name] = &module;
    run_side_by_side(layers_.size(),
                     [&](size_t i) { verify_layer(written, layout, modules, *layers_[i]); });
  }

  [[noreturn]] void differs(const std::string& name, const std::string& what) const {
    throw Error("verify: " + name, what + " read back from the output differs from what was meant",
                "a broken disk or a bug; nothing was kept");
  }

  void verify_tensor(const Checkpoint& written, const PlannedTensor& planned) {
    const Tensor got = written.tensor(planned.written.name);
    const auto hash = hashes_.find(planned.written.name);
    const Tensor source = output_.source.tensor(planned.source);
    const bool same =
        got.dtype() == planned.written.dtype && got.shape() == planned.written.shape &&
        (hash != hashes_.end() ? hash_of(got.bytes()) == hash->second
                               : got.bytes().size() == source.bytes().size() &&
                                     std::memcmp(got.bytes().data(), source.bytes().data(),
                                                 source.bytes().size()) == 0);
    if (!same) differs("tensor '" + planned.written.name + "'", "the tensor");
    output_.source.release(planned.source);
    written.release(planned.written.name);
    report(static_cast<int64_t>(got.bytes().size()), planned.written.name);
  }

  void verify_layer(const Checkpoint& written, const ModelLayout& layout,
                    const std::map<std::string, const LinearModule*>& modules,
                    const PlannedModule& planned) {
    const std::string& name = planned.target.name;
    int64_t bytes = 0;
    for (const TensorInfo& part : output_.format.layout(planned.target)) {
      bytes += byte_count(part.dtype, part.shape);
      if (is_dense() && hash_of(written.tensor(part.name).bytes()) != hashes_.at(part.name)) {
        differs("tensor '" + part.name + "'", "the tensor");
      }
    }
    if (!is_dense()) {
      const auto module = modules.find(name);
      if (module == modules.end() || module->second->quantized_tensors.empty() ||
          layout.format == nullptr) {
        differs("module '" + name + "'", "the model's configuration");
      }
      const QuantizedLinear q =
          layout.format->decode(written, name, planned.target.N, planned.target.K);
      if (hash_of(q) != hashes_.at(name)) differs("module '" + name + "'", "the layer");
    }
    report(bytes, name);
  }

  const ModelOutput& output_;
  const Progress& progress_;
  std::optional<FolderToFill> made_folder_;  // outlives what is written into it
  std::optional<CheckpointWriter> folder_;   // one of the two
  std::optional<GgufModelWriter> file_;
  std::vector<const PlannedModule*> layers_;  // that are quantized
  std::string stage_;
  std::mutex mutex_;  // of what follows
  std::map<std::string, Hash128> hashes_;
  int64_t flushed_ = 0;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

}  // namespace

bool writes_one_file(const Format& format) { return format.name == "gguf"; }

void fit_to_one_file(const ModelLayout& layout, std::vector<PlannedModule>& modules,
                     std::vector<PlannedTensor>& tensors) {
  const Architecture& row = *layout.config.architecture;
  const std::string prefix(row.prefix);
  const bool bare = !layout.final_norm.starts_with(prefix);
  const std::string head = std::string(row.head) + ".weight";
  const auto spelled = [&](const std::string& name, bool is_head) {
    return bare && !is_head ? prefix + name : name;
  };
  std::erase_if(tensors, [&](const PlannedTensor& tensor) {
    const bool ignored = std::ranges::find(layout.ignored, tensor.source) != layout.ignored.end();
    const bool copy_of_embedding =
        !layout.head && tensor.source == head && layout.embedding != head;
    return ignored || copy_of_embedding;
  });
  for (PlannedTensor& tensor : tensors) {
    const bool embedding = tensor.source == layout.embedding;
    tensor.written.name = embedding ? prefix + std::string(row.embedding) + ".weight"
                                    : spelled(tensor.written.name, tensor.source == head);
    tensor.written.dtype = GgufModelWriter::stored_dtype(tensor.written);
  }
  for (PlannedModule& module : modules) {
    module.target.name =
        spelled(module.target.name, module.module.input == InputGroup::kOutputHead);
  }
}

std::vector<FormatModule> format_modules(const std::vector<PlannedModule>& modules) {
  std::vector<FormatModule> result;
  for (const PlannedModule& module : modules) result.push_back(module.target);
  return result;
}

WrittenModel write_model(const ModelOutput& output, const OutputOptions& options,
                         const std::string& stage, const LayerSource& layers,
                         const Progress& progress) {
  return Run(output, options, progress).write(stage, layers);
}

}  // namespace nibble
