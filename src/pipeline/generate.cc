#include "src/pipeline/generate.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "src/model/config.h"
#include "src/model/gpu_session.h"
#include "src/model/model.h"
#include "src/model/tokenizer.h"
#include "src/tensor/error.h"
#include "src/tensor/stopwatch.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// The whole model in memory, with the keys and values of one sequence.
class Session {
 public:
  Session(const Model& model, int64_t context) : model_(model), head_(model.load_head()) {
    const Config& config = model.config();
    for (int64_t i = 0; i < config.layers; ++i) {
      blocks_.push_back(model.load_block(i));
      KeyValueCache cache;
      cache.keys.resize(context, config.key_value_heads * config.head_size);
      cache.values.resize(context, config.key_value_heads * config.head_size);
      caches_.push_back(std::move(cache));
    }
  }

  // Logits after the last of these tokens.
  std::vector<float> append(std::span<const int32_t> ids) {
    const Batch batch{.windows = 1, .window = static_cast<int64_t>(ids.size())};
    Matrix x = model_.embed(ids, batch, caches_.front().tokens);
    for (size_t i = 0; i < blocks_.size(); ++i) model_.forward(blocks_[i], caches_[i], x);
    const Matrix logits = model_.logits(head_, x.bottomRows(1));
    return {logits.data(), logits.data() + logits.cols()};
  }

 private:
  const Model& model_;
  Model::Head head_;
  std::vector<Block> blocks_;
  std::vector<KeyValueCache> caches_;
};

AppendTokens start_session(std::shared_ptr<const Model> model, int64_t context,
                           const GenerateOptions& options) {
  if (options.device == Device::kCuda) return gpu_session(model, context, options.max_vram);
  const auto session = std::make_shared<Session>(*model, context);
  return [model, session](std::span<const int32_t> ids) { return session->append(ids); };
}

int32_t choose(const std::vector<float>& logits, double temperature, std::mt19937_64& random) {
  const auto top = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return static_cast<int32_t>(top - logits.begin());
  std::vector<double> cumulative(logits.size());
  double sum = 0;
  for (size_t v = 0; v < logits.size(); ++v) {
    sum += std::exp(static_cast<double>(logits[v] - *top) / temperature);
    cumulative[v] = sum;
  }
  // 53 random bits in [0, 1): the standard distributions differ between libraries.
  const double point = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), point);
  return static_cast<int32_t>(
      std::min<ptrdiff_t>(found - cumulative.begin(), std::ssize(cumulative) - 1));
}

// How much of `text` is whole characters: a token may end inside one, which decodes as U+FFFD.
size_t whole_characters(const std::string& text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  size_t end = text.size();
  while (end >= kReplacement.size() &&
         text.compare(end - kReplacement.size(), kReplacement.size(), kReplacement) == 0) {
    end -= kReplacement.size();
  }
  return end;
}

// The continuation as text, piece by piece.
class Text {
 public:
  Text(const Tokenizer& tokenizer, std::vector<int32_t> prompt,
       const std::function<void(std::string_view)>& on_text)
      : tokenizer_(tokenizer), ids_(std::move(prompt)), on_text_(on_text) {
    before_ = tokenizer_.decode(ids_).size();
    shown_ = before_;
  }

  void add(int32_t id) {
    ids_.push_back(id);
    text_ = tokenizer_.decode(ids_);
    show(whole_characters(text_));
  }

  std::string finish() {
    show(text_.size());
    return text_.size() > before_ ? text_.substr(before_) : "";
  }

 private:
  void show(size_t end) {
    if (end <= shown_) return;
    if (on_text_) on_text_(std::string_view(text_).substr(shown_, end - shown_));
    shown_ = end;
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  const std::function<void(std::string_view)>& on_text_;
  std::string text_;
  size_t before_ = 0;  // bytes of the prompt's own text
  size_t shown_ = 0;
};

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt,
                                const Config& config) {
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty() && tokenizer.bos()) ids.push_back(*tokenizer.bos());
  if (ids.empty()) throw Error("--prompt", "is empty, and the tokenizer has no BOS to start from");
  for (const int32_t id : ids) {
    if (id < config.vocabulary_size) continue;
    throw Error("--prompt", "the tokenizer gives id " + std::to_string(id) + ", the model has " +
                                std::to_string(config.vocabulary_size) + " embeddings");
  }
  return ids;
}

}  // namespace

GenerateResult generate(std::shared_ptr<const Checkpoint> checkpoint,
                        const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text) {
  const auto model = std::make_shared<const Model>(checkpoint);
  const Tokenizer tokenizer = Tokenizer::open(checkpoint->folder());
  std::vector<int32_t> next = prompt_ids(tokenizer, options.prompt, model->config());
  GenerateResult result;
  result.prompt_tokens = static_cast<int64_t>(next.size());
  const int64_t length = result.prompt_tokens + options.tokens;
  if (length > model->config().context) {
    throw Error("--tokens", std::to_string(result.prompt_tokens) + " of the prompt and " +
                                std::to_string(options.tokens) +
                                " more do not fit in the model's context of " +
                                std::to_string(model->config().context));
  }

  const AppendTokens append = start_session(model, length, options);
  Text text(tokenizer, next, on_text);
  std::mt19937_64 random(options.seed);
  Stopwatch watch;
  std::vector<float> logits = append(next);
  result.prompt_seconds = watch.seconds();
  watch = {};
  while (result.tokens < options.tokens) {
    const int32_t id = choose(logits, options.temperature, random);
    result.ended = tokenizer.eos() && id == *tokenizer.eos();
    if (result.ended) break;
    text.add(id);
    ++result.tokens;
    if (result.tokens < options.tokens) logits = append(std::span(&id, 1));
  }
  result.seconds = watch.seconds();
  result.text = text.finish();
  return result;
}

}  // namespace nibble
