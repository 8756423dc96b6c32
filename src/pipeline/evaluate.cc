#include "src/pipeline/evaluate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibration/dataset.h"
#include "formats/checkpoint.h"
#include "kernels/divergence.h"
#include "kernels/matmul.h"
#include "src/model/gpu_scores.h"
#include "src/model/model.h"
#include "src/model/tokenizer.h"
#include "src/pipeline/divergence.h"
#include "src/pipeline/memory_meter.h"
#include "src/pipeline/progress.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

struct ProtocolRow {
  Protocol protocol;
  std::string_view name;
};
constexpr std::array<ProtocolRow, 2> kProtocols = {{
    {Protocol::kHf, "hf"},
    {Protocol::kLlamaCpp, "llama.cpp"},
}};

constexpr int64_t kDefaultSeqLen = 2048;
// Tokens that go through the blocks together: enough that loading a block's weights is negligible
// beside using them, few enough that the residual stream of a large model stays small (8192 x 8192
// x 4 bytes).
constexpr int64_t kBatchTokens = 8192;

// Blocks that stay loaded between batches: loading a small model's anew takes a tenth of the time.
constexpr int64_t kResidentBytes = int64_t{1} << 30;

// Sums of one quantity over scored tokens.
struct Moments {
  int64_t count = 0;
  double sum = 0;
  double squares = 0;

  void add(double value) {
    ++count;
    sum += value;
    squares += value * value;
  }
  double mean() const { return sum / static_cast<double>(count); }
  double standard_error() const {
    if (count < 2) return 0;
    const auto n = static_cast<double>(count);
    const double variance = std::max(0.0, squares / n - mean() * mean());
    return std::sqrt(variance / (n - 1));
  }
};

// One model on its way through a batch, on the CPU.
class Stream {
 public:
  explicit Stream(std::shared_ptr<const Model> model)
      : model_(std::move(model)), head_(model_->load_head()) {}

  const Model& model() const { return *model_; }
  const Model::Head& head() const { return head_; }

  // The last block's output for these windows.
  Matrix run(std::span<const int32_t> ids, const Batch& batch) {
    Matrix x = model_->embed(ids, batch);
    for (int64_t i = 0; i < model_->config().layers; ++i) {
      const auto resident = static_cast<size_t>(i);
      if (resident < blocks_.size()) {
        model_->forward(blocks_[resident], batch, x);
        continue;
      }
      Block block = model_->load_block(i);
      model_->forward(block, batch, x);
      if (resident == blocks_.size() && block_bytes_ + block.bytes() <= kResidentBytes) {
        block_bytes_ += block.bytes();
        blocks_.push_back(std::move(block));
      }
    }
    return x;
  }

 private:
  std::shared_ptr<const Model> model_;
  Model::Head head_;
  std::vector<Block> blocks_;  // the first ones
  int64_t block_bytes_ = 0;
};

// What gpu_scores gives, on the CPU.
ScoreTokens cpu_scores(const std::shared_ptr<const Model>& model,
                       const std::shared_ptr<const Model>& reference) {
  const auto stream = std::make_shared<Stream>(model);
  const auto other = reference ? std::make_shared<Stream>(reference) : nullptr;
  return [stream, other](std::span<const int32_t> ids, const Batch& batch,
                         std::span<const int32_t> targets) {
    const Matrix x = stream->run(ids, batch);
    if (other) {
      const Matrix reference_x = other->run(ids, batch);
      return compare_logits(stream->model(), stream->head(), x, other->model(), other->head(),
                            reference_x, targets);
    }
    const std::vector<double> losses = stream->model().cross_entropy(stream->head(), x, targets);
    std::vector<TokenDivergence> tokens;
    for (size_t i = 0; i < losses.size(); ++i) {
      if (targets[i] >= 0) tokens.push_back({.nll = losses[i]});
    }
    return tokens;
  };
}

// The ids and targets of windows [first, first + count).
struct WindowBatch {
  Batch batch;
  std::vector<int32_t> ids;
  std::vector<int32_t> targets;  // -1: not scored
};

WindowBatch take(const std::vector<int32_t>& stream, const Windows& windows, int64_t first,
                 int64_t count, std::optional<int32_t> bos) {
  WindowBatch result;
  result.batch = {.windows = count, .window = windows.seq_len};
  for (int64_t w = first; w < first + count; ++w) {
    const auto begin = stream.begin() + windows.starts[static_cast<size_t>(w)];
    const size_t offset = result.ids.size();
    result.ids.insert(result.ids.end(), begin, begin + windows.seq_len);
    result.targets.insert(result.targets.end(), static_cast<size_t>(windows.seq_len), -1);
    for (int64_t t = windows.first_target[static_cast<size_t>(w)]; t < windows.last_target; ++t) {
      result.targets[offset + static_cast<size_t>(t) - 1] = *(begin + t);
    }
    if (windows.bos_first && bos) result.ids[offset] = *bos;
  }
  return result;
}

int64_t resolve_seq_len(const EvaluateOptions& options, const Config& config) {
  if (options.seq_len == 0) return std::min(kDefaultSeqLen, config.context);
  if (options.seq_len > config.context) {
    throw Error("--seq-len", std::to_string(options.seq_len) + " tokens, the model's context has " +
                                 std::to_string(config.context));
  }
  return options.seq_len;
}

void check_vocabularies(const Config& config, const Config& reference) {
  if (config.vocabulary_size == reference.vocabulary_size) return;
  throw Error("--reference", "the vocabularies differ: " + std::to_string(config.vocabulary_size) +
                                 " ids, the reference has " +
                                 std::to_string(reference.vocabulary_size));
}

struct TokenStream {
  std::vector<int32_t> ids;
  std::optional<int32_t> bos;
  bool adds_bos = false;
};

TokenStream read_stream(const EvaluateOptions& options, const Checkpoint& checkpoint,
                        const Config& config) {
  check_options(options.dataset, options.dataset_options);
  const Dataset dataset = read_dataset(options.dataset, options.dataset_options);
  TokenStream stream;
  if (dataset.ids.empty()) {
    const Tokenizer tokenizer = Tokenizer::open(checkpoint.folder());
    stream.ids = token_stream(dataset, &tokenizer, config.vocabulary_size);
    stream.bos = tokenizer.bos();
    stream.adds_bos = tokenizer.adds_bos();
  } else {
    stream.ids = token_stream(dataset, nullptr, config.vocabulary_size);
  }
  if (options.limit > 0 && options.limit < static_cast<int64_t>(stream.ids.size())) {
    stream.ids.resize(static_cast<size_t>(options.limit));
  }
  return stream;
}

int64_t stride_of(const EvaluateOptions& options, int64_t seq_len) {
  if (options.stride == 0) return seq_len;
  if (options.protocol == Protocol::kHf && options.stride > 0 && options.stride <= seq_len) {
    return options.stride;
  }
  throw Error("--stride", std::to_string(options.stride) +
                              " is not usable: 1 to the window's length, with --protocol hf");
}

void check_finite(double nll, const Checkpoint& checkpoint) {
  if (std::isfinite(nll)) return;
  throw Error(checkpoint.folder().string(), "the loss is not a number",
              "NaN or infinity in the weights or activations; 'nibble verify' names weights");
}

}  // namespace

std::string_view protocol_name(Protocol protocol) {
  return kProtocols[static_cast<size_t>(protocol)].name;
}

Protocol protocol_from_name(const std::string& name) {
  for (const ProtocolRow& row : kProtocols) {
    if (row.name == name) return row.protocol;
  }
  throw Error("--protocol", "unknown protocol '" + name + "'", "known: hf, llama.cpp");
}

std::string_view products_name(Products products) {
  return products == Products::kFixed ? "fixed" : "float";
}

Products products_from_name(const std::string& name) {
  if (name == "auto") return has_fast_fixed_products() ? Products::kFixed : Products::kFloat;
  for (const Products products : {Products::kFloat, Products::kFixed}) {
    if (products_name(products) == name) return products;
  }
  throw Error("--products", "unknown arithmetic '" + name + "'", "known: auto, float, fixed");
}

Windows make_windows(Protocol protocol, int64_t ids, int64_t seq_len, int64_t stride,
                     bool bos_first) {
  const int64_t least = protocol == Protocol::kLlamaCpp ? 3 : 2;
  if (seq_len < least) {
    throw Error("--seq-len",
                "nothing is scored in windows of " + std::to_string(seq_len) +
                    " tokens by the protocol " + std::string(protocol_name(protocol)),
                "at least " + std::to_string(least));
  }
  Windows windows;
  windows.seq_len = seq_len;
  windows.last_target = seq_len;
  windows.bos_first = protocol == Protocol::kLlamaCpp && bos_first;
  for (int64_t start = 0; start + seq_len <= ids; start += stride) {
    // Overlapping windows score only what no earlier window scored.
    const int64_t fresh = start == 0 || stride == seq_len ? 1 : seq_len - stride;
    windows.starts.push_back(start);
    windows.first_target.push_back(protocol == Protocol::kLlamaCpp ? seq_len / 2 + 1 : fresh);
  }
  if (windows.starts.empty()) {
    throw Error(
        "dataset",
        std::to_string(ids) + " tokens, shorter than one window of " + std::to_string(seq_len),
        "a longer text or a smaller --seq-len");
  }
  return windows;
}

EvaluateResult evaluate(std::shared_ptr<const Checkpoint> checkpoint,
                        std::shared_ptr<const Checkpoint> reference, const EvaluateOptions& options,
                        const Progress& progress) {
  MemoryMeter memory;
  const auto model = std::make_shared<const Model>(
      checkpoint, ModelOptions{.simulate_activations = options.simulate_activations,
                               .products = options.products});
  std::shared_ptr<const Model> reference_model;
  if (reference) {
    reference_model =
        std::make_shared<const Model>(reference, ModelOptions{.products = options.products});
    check_vocabularies(model->config(), reference_model->config());
  }
  const TokenStream text = read_stream(options, *checkpoint, model->config());
  const int64_t seq_len = resolve_seq_len(options, model->config());
  const Windows windows = make_windows(options.protocol, static_cast<int64_t>(text.ids.size()),
                                       seq_len, stride_of(options, seq_len), text.adds_bos);
  const int64_t per_batch = std::max<int64_t>(1, kBatchTokens / seq_len);
  const ScoreTokens score =
      options.device == Device::kCuda
          ? gpu_scores(model, reference_model, per_batch * seq_len, options.max_vram)
          : cpu_scores(model, reference_model);

  const Stopwatch watch;
  const auto total = static_cast<int64_t>(windows.starts.size());
  Moments nll;
  DivergenceSums divergence;
  for (int64_t first = 0; first < total; first += per_batch) {
    const WindowBatch batch =
        take(text.ids, windows, first, std::min(per_batch, total - first), text.bos);
    for (const TokenDivergence& token : score(batch.ids, batch.batch, batch.targets)) {
      nll.add(token.nll);
      if (reference) divergence.add(token);
    }
    if (progress) {
      const int64_t done = std::min(first + per_batch, total);
      progress({"evaluating", done * seq_len, total * seq_len, "tokens", ""});
    }
  }

  EvaluateResult result;
  result.seconds = watch.seconds();
  result.seq_len = seq_len;
  result.windows = total;
  result.tokens = nll.count;
  result.nll = nll.mean();
  check_finite(result.nll, *checkpoint);
  result.perplexity = std::exp(result.nll);
  result.perplexity_stderr = result.perplexity * nll.standard_error();
  if (reference) {
    EvaluateResult::Comparison comparison = divergence.summary();
    check_finite(comparison.reference_nll, *reference);
    result.comparison = comparison;
  }
  result.peak_ram_bytes = memory.peak_bytes();
  return result;
}

}  // namespace nibble
