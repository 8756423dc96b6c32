#include "src/pipeline/saved_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibration/histogram.h"
#include "calibration/stats.h"
#include "calibration/windows.h"
#include "formats/atomic_folder.h"
#include "formats/checkpoint.h"
#include "formats/config_fields.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "formats/safetensors.h"
#include "kernels/hessian.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/fingerprint.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetadataKey = "nibble_statistics";
constexpr int64_t kRowsTogether = 64;  // of a triangle, per write
constexpr int64_t kMostWindows = int64_t{1} << 30;

std::string prefix_of(int64_t block, InputGroup group, bool held_out) {
  return "block." + std::to_string(block) + "." + std::string(input_group_name(group)) +
         (held_out ? ".held_out." : ".");
}

int64_t triangle(int64_t K) { return K * (K + 1) / 2; }

template <typename T>
std::string_view text_of(const T* values, int64_t count) {
  return {reinterpret_cast<const char*>(values), static_cast<size_t>(count) * sizeof(T)};
}

constexpr const char* kCounts = "histogram_counts";
constexpr const char* kPlace = "histogram_place";
constexpr int64_t kPlaceValues = 6;
constexpr double kLargestFloat = std::numeric_limits<float>::max();

std::array<double, kPlaceValues> place_of(const Histogram& histogram) {
  return {static_cast<double>(histogram.exponent),
          static_cast<double>(histogram.first),
          histogram.smallest,
          histogram.largest,
          histogram.moving_smallest,
          histogram.moving_largest};
}

// Exponents of floats, bins within 2^53, and counts whose sum is far from overflow.
bool is_histogram(std::span<const int64_t> counts, std::span<const double> place) {
  const auto within = [](double value, double limit) { return std::abs(value) <= limit; };
  return within(place[0], 200) && within(place[1], 0x1p53) &&
         std::ranges::all_of(place.subspan(2),
                             [&](double x) { return within(x, kLargestFloat); }) &&
         std::ranges::all_of(counts, [](int64_t n) { return n >= 0 && n <= int64_t{1} << 50; });
}

Histogram histogram_of(std::span<const int64_t> counts, std::span<const double> place) {
  return {.exponent = static_cast<int>(place[0]),
          .first = static_cast<int64_t>(place[1]),
          .counts = {counts.begin(), counts.end()},
          .total = std::accumulate(counts.begin(), counts.end(), int64_t{0}),
          .smallest = static_cast<float>(place[2]),
          .largest = static_cast<float>(place[3]),
          .moving_smallest = static_cast<float>(place[4]),
          .moving_largest = static_cast<float>(place[5])};
}

StatisticsOrigin read_origin(const Checkpoint& file, const std::string& where) {
  const auto found = file.metadata().find(kMetadataKey);
  if (found == file.metadata().end()) {
    throw Error(where, "holds no statistics", "made by 'nibble calibrate'?");
  }
  const std::string place = where + ": " + kMetadataKey;
  const Json json = parse_json(found->second, place);
  const auto integer = [&](const char* key, int64_t low, int64_t high) {
    const std::optional<int64_t> value = integer_field(json, key, place);
    if (value && *value >= low && *value <= high) return *value;
    throw Error(place,
                value ? "'" + std::string(key) + "' is " + std::to_string(*value)
                      : "no '" + std::string(key) + "'",
                "expected " + std::to_string(low) + " to " + std::to_string(high));
  };
  StatisticsOrigin origin;
  origin.model = string_field(json, "model", place).value_or("");
  origin.dataset = string_field(json, "dataset", place).value_or("");
  origin.windows = integer("windows", 1, kMostWindows);
  origin.seq_len = integer("seq_len", 1, kMostWindows);
  origin.held_out = integer("held_out", 0, origin.windows - 1);
  if (const auto options = json.find("options"); options != json.end()) origin.options = *options;
  return origin;
}

}  // namespace

std::string dataset_fingerprint(const CalibrationWindows& windows) {
  std::vector<int32_t> content = windows.ids;
  content.push_back(static_cast<int32_t>(windows.seq_len));
  return to_text(hash_of(std::as_bytes(std::span(content))));
}

StatisticsOrigin origin_of(const Checkpoint& checkpoint, const CalibrationWindows& windows,
                           const CalibrationOptions& options) {
  return {.model = to_text(hash_of(checkpoint)),
          .dataset = dataset_fingerprint(windows),
          .windows = windows.windows,
          .seq_len = windows.seq_len,
          .held_out = 0,
          .options = {{"dataset", options.dataset.string()},
                      {"samples", options.samples},
                      {"seq_len", options.seq_len},
                      {"seed", options.seed},
                      {"pack", options.pack}}};
}

Json to_json(const StatisticsOrigin& origin) {
  return {{"model", origin.model},     {"dataset", origin.dataset},   {"windows", origin.windows},
          {"seq_len", origin.seq_len}, {"held_out", origin.held_out}, {"options", origin.options}};
}

class StatisticsWriter::State {
 public:
  State(const fs::path& target, const Config& config, const StatisticsOrigin& origin,
        const StatisticsOptions& options)
      : options_(options), file_(target, options.replace) {
    SafetensorsHeader header;
    header.metadata[kMetadataKey] = to_json(origin).dump();
    for (int64_t block = 0; block < config.layers; ++block) {
      for (const InputGroup group : kBlockGroups) {
        declare(header, block, group, false, input_width(config, group));
        if (origin.held_out > 0) declare(header, block, group, true, input_width(config, group));
      }
    }
    std::sort(header.entries.begin(), header.entries.end(),
              [](const auto& a, const auto& b) { return precedes_in_file(a.info, b.info); });
    int64_t end = 0;
    for (SafetensorsEntry& entry : header.entries) {
      entry.begin = end;
      entry.end = end += byte_count(entry.info.dtype, entry.info.shape);
    }
    const std::string head = safetensors_header_bytes(header);
    for (const SafetensorsEntry& entry : header.entries) {
      places_[entry.info.name] = std::ssize(head) + entry.begin;
    }
    bytes_ = std::ssize(head) + end;
    file_.output().reserve(bytes_);
    file_.output().write_at(0, head);
  }

  const std::vector<fs::path>& removed() const { return file_.removed(); }

  int64_t bytes() const { return bytes_; }

  void write(const std::string& prefix, const InputStatistics& statistics) {
    write_vector(prefix + "mean_absolute", statistics.mean_absolute);
    write_vector(prefix + "largest", statistics.largest);
    if (options_.histograms) write_histogram(prefix, statistics.histogram);
    int64_t place = places_.at(prefix + "hessian");
    const int64_t K = statistics.H.rows();
    std::vector<float> rows;
    for (int64_t row = 0; row < K; ++row) {
      const float* values = statistics.H.row(row).data();
      rows.insert(rows.end(), values + row, values + K);
      if ((row + 1) % kRowsTogether != 0 && row + 1 != K) continue;
      const std::string_view bytes = text_of(rows.data(), std::ssize(rows));
      file_.output().write_at(place, bytes);
      place += std::ssize(bytes);
      rows.clear();
    }
    ++written_;
  }

  void finish() {
    if (written_ != declared_) throw Error(file_.target().string(), "statistics are incomplete");
    file_.commit();
  }

 private:
  void declare(SafetensorsHeader& header, int64_t block, InputGroup group, bool held_out,
               int64_t K) {
    const std::string prefix = prefix_of(block, group, held_out);
    const auto add = [&](const char* name, int64_t count, Dtype type = Dtype::kF32) {
      header.entries.push_back({.info = {prefix + name, type, {count}}});
    };
    ++declared_;
    add("hessian", triangle(K));
    add("mean_absolute", K);
    add("largest", K);
    if (!options_.histograms) return;
    add(kCounts, Histogram::kBins, Dtype::kI64);
    add(kPlace, kPlaceValues, Dtype::kF64);
  }

  void write_histogram(const std::string& prefix, const Histogram& histogram) {
    std::vector<int64_t> counts = histogram.counts;
    counts.resize(Histogram::kBins);  // no tokens: none
    const std::array<double, kPlaceValues> place = place_of(histogram);
    file_.output().write_at(places_.at(prefix + kCounts),
                            text_of(counts.data(), std::ssize(counts)));
    file_.output().write_at(places_.at(prefix + kPlace), text_of(place.data(), kPlaceValues));
  }

  void write_vector(const std::string& name, const Vector& values) {
    file_.output().write_at(places_.at(name), text_of(values.data(), values.size()));
  }

  StatisticsOptions options_;
  AtomicFile file_;
  std::map<std::string, int64_t> places_;  // tensor -> byte of the file
  int64_t bytes_ = 0;
  int64_t declared_ = 0;  // groups, held-out ones apart
  int64_t written_ = 0;
};

StatisticsWriter::StatisticsWriter(const fs::path& file, const Config& config,
                                   const StatisticsOrigin& origin, const StatisticsOptions& options)
    : state_(std::make_unique<State>(file, config, origin, options)) {}
StatisticsWriter::~StatisticsWriter() = default;

int64_t StatisticsWriter::bytes() const { return state_->bytes(); }
const std::vector<fs::path>& StatisticsWriter::removed() const { return state_->removed(); }

void StatisticsWriter::write(int64_t block, InputGroup group, bool held_out,
                             const InputStatistics& statistics) {
  state_->write(prefix_of(block, group, held_out), statistics);
}

void StatisticsWriter::finish() { state_->finish(); }

SavedStatistics::SavedStatistics(const fs::path& file, const Checkpoint& checkpoint,
                                 const Config& config, bool hold_out)
    : file_(Checkpoint::open(file)),
      config_(config),
      hold_out_(hold_out),
      origin_(read_origin(file_, file.string())) {
  const std::string model = to_text(hash_of(checkpoint));
  if (model != origin_.model) {
    throw Error(file.string(),
                "statistics of another model: made of " + origin_.model + ", " +
                    checkpoint.folder().string() + " is " + model,
                "run 'nibble calibrate' on this model");
  }
}

void SavedStatistics::enter(int64_t block) {
  block_ = block;
  rescaling_ = {};
}

InputStatistics SavedStatistics::load(InputGroup group, bool held_out) const {
  const std::string prefix = prefix_of(block_, group, held_out);
  const int64_t K = input_width(config_, group);
  const auto values_of = [&](const std::string& name, int64_t count, Dtype type) {
    Tensor tensor = file_.tensor(name);
    if (tensor.dtype() != type || tensor.shape() != Shape{count}) {
      throw Error(where_of(file_, name),
                  "expected " + std::string(dtype_name(type)) + " [" + std::to_string(count) + "]");
    }
    return tensor;
  };
  const auto floats = [&](const std::string& name, int64_t count) {
    Tensor tensor = values_of(name, count, Dtype::kF32);
    const auto values = tensor.values<float>();
    const auto bad = std::ranges::find_if(values, [](float x) { return !std::isfinite(x); });
    if (bad != values.end()) {
      throw Error(where_of(file_, name),
                  "value " + std::to_string(bad - values.begin()) + " is not finite",
                  "is the file damaged?");
    }
    return tensor;
  };
  InputStatistics statistics;
  statistics.tokens =
      (held_out ? origin_.held_out : origin_.windows - origin_.held_out) * origin_.seq_len;
  statistics.mean_absolute =
      ConstVectorMap(floats(prefix + "mean_absolute", K).values<float>().data(), K);
  statistics.largest = ConstVectorMap(floats(prefix + "largest", K).values<float>().data(), K);
  const Tensor hessian = floats(prefix + "hessian", triangle(K));
  const float* values = hessian.values<float>().data();
  statistics.H.resize(K, K);
  for (int64_t row = 0; row < K; ++row) {
    std::copy_n(values, K - row, statistics.H.row(row).data() + row);
    values += K - row;
  }
  mirror_upper(statistics.H);
  file_.release(prefix + "hessian");
  if (file_.has(prefix + kCounts)) {
    const Tensor counts = values_of(prefix + kCounts, Histogram::kBins, Dtype::kI64);
    const Tensor place = values_of(prefix + kPlace, kPlaceValues, Dtype::kF64);
    if (!is_histogram(counts.values<int64_t>(), place.values<double>())) {
      throw Error(where_of(file_, prefix + kPlace), "no histogram's numbers",
                  "is the file damaged?");
    }
    statistics.histogram = histogram_of(counts.values<int64_t>(), place.values<double>());
  }
  if (const auto found = rescaling_.inputs.find(group); found != rescaling_.inputs.end()) {
    divide_inputs(statistics, found->second);
  }
  return statistics;
}

GroupInputs SavedStatistics::collect(InputGroup group) {
  GroupInputs inputs;
  inputs.fitted.inputs = load(group, false);
  if (origin_.held_out == 0) return inputs;
  inputs.held_out.inputs = load(group, true);
  if (!hold_out_) merge(inputs.fitted.inputs, std::exchange(inputs.held_out.inputs, {}));
  return inputs;
}

void SavedStatistics::rescale(const BlockRescaling& rescaling) { rescaling_ = rescaling; }

double SavedStatistics::block_loss(std::span<const LinearModule* const> /*layers*/,
                                   std::span<const Matrix> /*weights*/) {
  throw Error("--awq-search block", "statistics hold no activations to run the block on",
              "give a dataset instead of --stats, or search by the Hessian");
}

void SavedStatistics::replace(const LinearModule& /*module*/, const QuantizedLinear& /*q*/) {}

}  // namespace nibble
