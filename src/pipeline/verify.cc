#include "src/pipeline/verify.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/format.h"
#include "formats/gguf/container.h"
#include "formats/gguf/names.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "formats/module_tensors.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/progress.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/zero_scales.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kScanElements = int64_t{1} << 16;  // at a time: 256 KiB of floats
// Files that repeat the quantization config, and what two of them must agree in.
constexpr std::array<const char*, 2> kConfigCopies = {"quantize_config.json", "quant_config.json"};
constexpr std::array<const char*, 9> kConfigKeys = {
    "quant_method", "bits",    "group_size",       "sym", "desc_act", "zero_point",
    "format",       "version", "checkpoint_format"};

// "file: tensor 'x'" of an Error's where, taken apart.
VerifyProblem problem_of(const Error& error, const fs::path& path) {
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  VerifyProblem problem;
  problem.problem = error.problem() + (error.hint().empty() ? "" : " (" + error.hint() + ")");
  std::string place = error.where();
  for (const fs::path& prefix : {path, folder}) {
    if (!prefix.empty() && place.starts_with(prefix.string())) {
      place.erase(0, prefix.string().size());
      if (prefix == path && !fs::is_directory(path)) place.insert(0, path.filename().string());
      break;
    }
  }
  place.erase(0, place.find_first_not_of('/'));
  const size_t end = place.find(": ");
  problem.file = place.substr(0, end);
  if (end != std::string::npos) problem.tensor = place.substr(end + 2);
  if (problem.tensor == "quantization_config") {
    problem.file = "config.json";
    problem.tensor.clear();
  }
  constexpr std::string_view kTensor = "tensor '";
  if (problem.tensor.starts_with(kTensor)) {
    problem.tensor = problem.tensor.substr(kTensor.size());
    problem.tensor.erase(problem.tensor.rfind('\''), 1);
  }
  return problem;
}

std::string element_place(int64_t element, const Shape& shape) {
  if (shape.size() != 2) return "element " + std::to_string(element);
  return "row " + std::to_string(element / shape[1]) + ", column " +
         std::to_string(element % shape[1]);
}

// "3 values are not finite, the first, NaN, in row 1, column 7"; empty if all are.
std::string values_not_finite(const Tensor& tensor) {
  if (!is_float(tensor.dtype())) return {};
  const int64_t width = dtype_bits(tensor.dtype()) / 8;
  std::vector<float> values;
  int64_t count = 0;
  int64_t first = 0;
  float value = 0;
  for (int64_t begin = 0; begin < tensor.elements(); begin += kScanElements) {
    const int64_t n = std::min(kScanElements, tensor.elements() - begin);
    values.resize(static_cast<size_t>(n));
    to_float({tensor.dtype(), {n}, tensor.bytes().subspan(begin * width, n * width), Device::kCpu},
             values);
    // x - x is 0 for finite x alone, and a sum of such is 0: no branch for each.
    float sum = 0;
    for (const float x : values) sum += x - x;
    if (sum == 0) continue;
    for (int64_t i = 0; i < n; ++i) {
      const float x = values[static_cast<size_t>(i)];
      if (std::isfinite(x)) continue;
      if (count++ > 0) continue;
      first = begin + i;
      value = x;
    }
  }
  if (count == 0) return {};
  const char* kind = std::isnan(value) ? "NaN" : value > 0 ? "infinity" : "-infinity";
  return (count == 1 ? std::string("1 value is") : std::to_string(count) + " values are") +
         " not finite, the first, " + kind + ", at " + element_place(first, tensor.shape()) +
         ", expected finite numbers";
}

struct ManifestCheck {
  int64_t files = 0;  // compared
  Findings findings;
};

// It runs beside all else.
ManifestCheck check_manifest(const fs::path& path, int threads) {
  ManifestCheck result;
  const fs::path file = path / kManifestFile;
  if (!fs::is_directory(path) || !fs::exists(file)) return result;
  try {
    const Json manifest = read_json(file);
    if (!manifest.is_object()) throw Error(file.string(), "not a JSON object");
    result.files = check_files(path, manifest, threads, result.findings);
  } catch (const Error& error) {
    result.findings.push_back(error);
  }
  return result;
}

class Verifier {
 public:
  Verifier(const fs::path& path, const Progress& progress) : path_(path), progress_(progress) {}

  VerifyReport run() {
    if (!fs::exists(path_)) {
      throw Error(path_.empty() ? "''" : path_.string(), "no such file or folder");
    }
    std::future<ManifestCheck> manifest =
        std::async(std::launch::async, check_manifest, path_, omp_get_max_threads());
    if (open() && read()) {
      for (const LinearModule& module : layout_->linears) check_module(module);
    }
    check_dense_tensors();
    const ManifestCheck checked = manifest.get();
    VerifyReport report = std::move(report_);
    report.files_compared = checked.files;
    report.problems.clear();
    for (const Findings& findings : {checked.findings, findings_}) {
      for (const Error& error : findings) report.problems.push_back(problem_of(error, path_));
    }
    return report;
  }

 private:
  // Whether there is enough to go on with.
  bool open() {
    const bool is_file = fs::is_regular_file(path_);
    if (is_file && path_.extension() != ".safetensors") return open_gguf();
    checkpoint_.emplace(Checkpoint::open(path_, &findings_));
    report_.weight_files = std::ssize(checkpoint_->weight_files());
    report_.tensors = std::ssize(checkpoint_->tensors());
    if (checkpoint_->config().is_null()) {
      if (findings_.empty()) {
        throw Error(path_.string(), "no config.json beside it", "give the path of its folder");
      }
      return false;
    }
    check_config_copies();
    // Of a file that cannot be read, every tensor would be missing.
    return !weight_file_is_broken();
  }

  bool weight_file_is_broken() const {
    return std::ranges::any_of(findings_, [&](const Error& finding) {
      const std::string file = problem_of(finding, path_).file;
      const auto opened = checkpoint_->weight_files();
      return file.ends_with(".safetensors") &&
             std::ranges::find(opened, path_ / file) == opened.end();
    });
  }

  bool open_gguf() {
    try {
      const auto file = GgufFile::open(path_);
      report_.weight_files = 1;
      report_.tensors = std::ssize(file->tensors());
      const std::string& name = file->metadata().text("general.architecture");
      if (architecture_of_gguf(name) != nullptr) {
        checkpoint_.emplace(open_checkpoint(path_));
        return true;
      }
      unknown_.emplace(path_.string(), "architecture '" + name + "' is not known");
    } catch (const Error& error) {
      findings_.push_back(error);
      return false;
    }
    throw *unknown_;
  }

  // The layout; false if config.json cannot be understood.
  bool read() {
    const std::string file = (checkpoint_->folder() / "config.json").string();
    const auto type = checkpoint_->config().find("model_type");
    if (type != checkpoint_->config().end() && type->is_string()) {
      architecture(type->get<std::string>(), file);  // throws for one that is not known
    }
    if (const Format* format = format_of(*checkpoint_)) report_.format = format->name;
    try {
      layout_.emplace(read_layout(*checkpoint_, &findings_));
    } catch (const Error& error) {
      findings_.push_back(error);
    }
    return layout_.has_value();
  }

  void check_config_copies() {
    const Json& config = checkpoint_->config();
    const auto own = config.find("quantization_config");
    if (own == config.end() || !own->is_object()) return;
    for (const char* name : kConfigCopies) {
      const fs::path file = checkpoint_->folder() / name;
      if (!fs::exists(file)) continue;
      try {
        compare(*own, read_json(file), file.string());
      } catch (const Error& error) {
        findings_.push_back(error);
      }
    }
  }

  void compare(const Json& config, const Json& copy, const std::string& where) {
    for (const char* key : kConfigKeys) {
      const auto ours = config.find(key);
      const auto theirs = copy.find(key);
      if (ours == config.end() || theirs == copy.end() || *ours == *theirs) continue;
      findings_.emplace_back(where, std::string(key) + " " + shown(*theirs) +
                                        ", config.json's quantization_config says " + shown(*ours));
    }
  }

  // In the file of its first tensor.
  std::string where_of_module(const LinearModule& module) const {
    const std::string& first =
        module.quantized_tensors.empty() ? module.weight : module.quantized_tensors.front();
    return checkpoint_->info(first).file.string() + ": " + module.name;
  }

  void check_module(const LinearModule& module) {
    if (module.quantized_tensors.empty()) {
      if (!module.weight.empty() && checkpoint_->has(module.weight)) {
        check_claims(module, nullptr);
      }
      return;
    }
    bool finite = true;
    for (const std::string& name : module.quantized_tensors) {
      // Codes may lie in words of a float type (bitsandbytes).
      finite = (name == module.name + ".weight" ? skip(name) : scan(name)) && finite;
    }
    try {
      const QuantizedLinear q =
          layout_->format->decode(*checkpoint_, module.name, module.N, module.K);
      ++report_.modules;
      const ZeroScales zeros = zero_scales(q);
      if (zeros.blocks > 0) {
        findings_.emplace_back(where_of_module(module), std::to_string(zeros.blocks) +
                                                            " scales are 0 though their codes "
                                                            "are not, the first at " +
                                                            zeros.first);
      }
      check_claims(module, &q);
    } catch (const Error& error) {
      // What is not finite was found above, with its tensor.
      const bool about_values =
          error.where().starts_with(checkpoint_->folder().string() + ": " + module.name);
      if (finite && about_values) {
        findings_.emplace_back(
            where_of_module(module) + error.where().substr(error.where().rfind(": ")),
            error.problem(), error.hint());
      } else if (!about_values) {
        findings_.push_back(error);
      }
    }
    for (const std::string& name : module.quantized_tensors) checkpoint_->release(name);
  }

  void check_claims(const LinearModule& module, const QuantizedLinear* q) {
    if (layout_->format == nullptr || layout_->format->contradictions == nullptr) return;
    for (const std::string& claim : layout_->format->contradictions(*checkpoint_, module.name, q)) {
      findings_.emplace_back(where_of_module(module), claim);
    }
  }

  void check_dense_tensors() {
    if (!checkpoint_) return;
    for (const auto& [name, stored] : checkpoint_->tensors()) {
      if (scanned_.contains(name)) continue;
      scan(name);
      checkpoint_->release(name);
    }
  }

  bool skip(const std::string& name) {
    scanned_.insert(name);
    const StoredTensor& stored = checkpoint_->info(name);
    bytes_ += byte_count(stored.info.dtype, stored.info.shape);
    if (progress_) progress_({"verifying", bytes_, checkpoint_->bytes(), "bytes", name});
    return true;
  }

  // Whether all values are finite.
  bool scan(const std::string& name) {
    skip(name);
    try {
      const std::string problem = values_not_finite(checkpoint_->tensor(name));
      if (problem.empty()) return true;
      findings_.emplace_back(where_of(*checkpoint_, name), problem, "is the file damaged?");
    } catch (const Error& error) {  // of a tensor that is decoded when it is read
      findings_.push_back(error);
    }
    return false;
  }

  fs::path path_;
  const Progress& progress_;
  VerifyReport report_;
  Findings findings_;
  std::optional<Error> unknown_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<ModelLayout> layout_;
  std::set<std::string> scanned_;
  int64_t bytes_ = 0;
};

}  // namespace

VerifyReport verify(const fs::path& path, const Progress& progress) {
  return Verifier(path, progress).run();
}

}  // namespace nibble
