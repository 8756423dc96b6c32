#include "src/pipeline/plan.h"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <utility>

#include "src/pipeline/method.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// "layers.2" before "layers.10": runs of digits compare as numbers.
bool natural_less(const std::string& a, const std::string& b) {
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  size_t i = 0;
  size_t j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const size_t a_end = std::find_if_not(a.begin() + i, a.end(), is_digit) - a.begin();
      const size_t b_end = std::find_if_not(b.begin() + j, b.end(), is_digit) - b.begin();
      if (a_end - i != b_end - j) return a_end - i < b_end - j;
      const int order = a.compare(i, a_end - i, b, j, b_end - j);
      if (order != 0) return order < 0;
      i = a_end;
      j = b_end;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

// One of the user's patterns of module names, and whether it ever matched.
struct Pattern {
  std::string text;
  std::regex regex;
  bool matched = false;
};

std::vector<Pattern> compile(const std::vector<std::string>& texts, const std::string& option) {
  std::vector<Pattern> patterns;
  for (const std::string& text : texts) {
    try {
      patterns.push_back({text, std::regex(text, std::regex::ECMAScript)});
    } catch (const std::regex_error& error) {
      throw Error(option, "'" + text + "' is not a regular expression: " + error.what());
    }
  }
  return patterns;
}

bool any_matches(std::vector<Pattern>& patterns, const std::string& name) {
  bool found = false;
  for (Pattern& pattern : patterns) {
    if (!std::regex_search(name, pattern.regex)) continue;
    pattern.matched = true;
    found = true;
  }
  return found;
}

void check_all_matched(const std::vector<Pattern>& patterns, const std::string& option) {
  for (const Pattern& pattern : patterns) {
    if (pattern.matched) continue;
    throw Error(option, "'" + pattern.text + "' matches no linear layer of the model",
                "'nibble inspect MODEL' lists the names");
  }
}

Dtype stored_dtype(const Checkpoint& checkpoint, const ModelLayout& layout,
                   const LinearModule& module) {
  return module.weight.empty() ? layout.config.dtype : checkpoint.info(module.weight).info.dtype;
}

// The head as a module of its own, although the checkpoint has it only as the embedding.
LinearModule untied_head(const ModelLayout& layout) {
  LinearModule head;
  head.name = std::string(layout.config.architecture->head);
  head.N = layout.config.vocabulary_size;
  head.K = layout.config.hidden_size;
  head.roles = {Role::kOutputHead};
  head.input = InputGroup::kOutputHead;
  head.weight = layout.embedding;
  return head;
}

// Which modules the recipe quantizes.
class Selection {
 public:
  explicit Selection(const Recipe& recipe)
      : recipe_(recipe),
        include_(compile(recipe.include, "--include")),
        exclude_(compile(recipe.exclude, "--exclude")) {}

  // Bits for the module, or none.
  std::optional<int> bits(const LinearModule& module) {
    if (module.input == InputGroup::kOutputHead) return recipe_.output_head_bits;
    const bool included = include_.empty() || any_matches(include_, module.name);
    const bool excluded = any_matches(exclude_, module.name);
    return included && !excluded ? std::optional(recipe_.bits) : std::nullopt;
  }

  void check() const {
    check_all_matched(include_, "--include");
    check_all_matched(exclude_, "--exclude");
  }

 private:
  const Recipe& recipe_;
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;
};

void check_can_hold(const Format& format, const FormatModule& module) {
  const std::string reason = format.refusal(module);
  if (reason.empty()) return;
  const std::string others = formats_that_hold(module);
  throw Error(module.name,
              std::string(format.name) + " cannot hold " + describe(*module.scheme) + ": " + reason,
              (others.empty() ? "" : "formats that can: " + others + "; or ") +
                  "leave it out with --exclude");
}

Dtype written_dtype(const TensorInfo& tensor, std::optional<Dtype> dtype) {
  return dtype && is_float(tensor.dtype) && dtype_bits(tensor.dtype) > 8 ? *dtype : tensor.dtype;
}

// Every tensor of the checkpoint that is not part of a quantized module.
std::vector<PlannedTensor> plan_tensors(const Plan& plan) {
  std::set<std::string> replaced;
  for (const PlannedModule& module : plan.modules) {
    const auto& parts = module.module.quantized_tensors;
    replaced.insert(parts.begin(), parts.end());
    const bool shared = module.module.weight == plan.layout.embedding;
    if (module.target.scheme && !shared) replaced.insert(module.module.weight);
  }
  std::vector<PlannedTensor> tensors;
  for (const auto& [name, stored] : plan.checkpoint->tensors()) {
    if (replaced.contains(name)) continue;
    TensorInfo written = stored.info;
    written.dtype = written_dtype(stored.info, plan.recipe.dtype);
    tensors.push_back({name, std::move(written)});
  }
  return tensors;
}

int64_t bytes_of(std::span<const TensorInfo> tensors) {
  int64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) bytes += byte_count(tensor.dtype, tensor.shape);
  return bytes;
}

void count_bytes(Plan& plan) {
  int64_t weights = 0;
  int64_t quantized_bytes = 0;
  for (PlannedModule& module : plan.modules) {
    if (!module.target.scheme) continue;
    module.bytes = bytes_of(plan.format->layout(module.target));
    quantized_bytes += module.bytes;
    weights += module.target.N * module.target.K;
  }
  plan.bytes_in = plan.checkpoint->bytes();
  plan.bytes_out = bytes_of(output_tensors(*plan.format, plan.modules, plan.tensors));
  plan.bits_per_weight =
      weights == 0 ? 0 : 8.0 * static_cast<double>(quantized_bytes) / static_cast<double>(weights);
}

PlannedModule plan_module(const Plan& plan, LinearModule module, std::optional<int> bits) {
  const Dtype dtype = stored_dtype(*plan.checkpoint, plan.layout, module);
  PlannedModule planned;
  planned.target = {.name = module.name,
                    .N = module.N,
                    .K = module.K,
                    .dtype = plan.recipe.dtype.value_or(dtype),
                    .transposed = module.transposed,
                    .has_column_groups = false,
                    .scheme = {}};
  if (bits) {
    planned.target.scheme = integer_scheme(*bits, plan.recipe.group_size, plan.recipe.symmetric,
                                           plan.format->scale_type(dtype));
    check_can_hold(*plan.format, planned.target);
  }
  planned.module = std::move(module);
  return planned;
}

void check_calibration(const Recipe& recipe) {
  const bool needed = method(recipe.method).needs_calibration;
  const bool given = !recipe.calibration.dataset.empty();
  if (needed && !given) {
    throw Error("--method " + recipe.method, "needs a calibration dataset", "add -d FILE");
  }
  if (needed && recipe.output_head_bits) {
    throw Error("--output-head", "cannot be calibrated yet",
                "use -m rtn, or leave the head as it is");
  }
  if (given && !needed) {
    throw Error("--dataset", "method " + recipe.method + " uses no calibration", "leave it out");
  }
}

// Each distinct caution of the format once, with the first module it is about.
void add_cautions(Plan& plan) {
  std::set<std::string> said;
  for (const PlannedModule& module : plan.modules) {
    if (!module.target.scheme) continue;
    const std::string caution = plan.format->caution(module.target);
    if (!caution.empty() && said.insert(caution).second) {
      plan.warnings.push_back(module.target.name + ": " + caution);
    }
  }
}

void check_not_quantized(const Plan& plan) {
  if (plan.layout.format == nullptr || plan.recipe.requantize) return;
  throw Error(plan.checkpoint->folder().string(),
              "is quantized already (" + std::string(plan.layout.format->name) + ")",
              "'nibble export' repacks the same codes; --requantize decodes and quantizes again");
}

}  // namespace

std::string formats_that_hold(const FormatModule& module) {
  std::string names;
  for (const Format& row : formats()) {
    if (!row.refusal(module).empty()) continue;
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  return names;
}

Json output_config(const Json& config, const Format& format, std::span<const FormatModule> modules,
                   std::optional<Dtype> dtype, bool unties_head) {
  Json output = config;
  output.erase("quantization_config");
  if (unties_head) output["tie_word_embeddings"] = false;
  if (dtype) output[output.contains("dtype") ? "dtype" : "torch_dtype"] = torch_dtype_name(*dtype);
  Json quantization = format.config(modules);
  if (!quantization.is_null()) output["quantization_config"] = std::move(quantization);
  return output;
}

std::vector<TensorInfo> output_tensors(const Format& format, std::span<const PlannedModule> modules,
                                       std::span<const PlannedTensor> tensors) {
  std::vector<TensorInfo> all;
  for (const PlannedTensor& tensor : tensors) all.push_back(tensor.written);
  for (const PlannedModule& module : modules) {
    if (!module.target.scheme) continue;
    for (TensorInfo& tensor : format.layout(module.target)) all.push_back(std::move(tensor));
  }
  std::sort(all.begin(), all.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return natural_less(a.name, b.name); });
  return all;
}

Plan make_plan(const Recipe& recipe, std::shared_ptr<const Checkpoint> checkpoint) {
  check_calibration(recipe);
  Plan plan;
  plan.recipe = recipe;
  plan.checkpoint = std::move(checkpoint);
  plan.layout = read_layout(*plan.checkpoint);
  check_not_quantized(plan);
  if (plan.recipe.format.empty()) plan.recipe.format = default_format(recipe.bits);
  plan.format = &format(plan.recipe.format);

  Selection selection(recipe);
  for (const LinearModule& module : plan.layout.linears) {
    plan.modules.push_back(plan_module(plan, module, selection.bits(module)));
  }
  if (!plan.layout.head && recipe.output_head_bits) {
    plan.modules.push_back(plan_module(plan, untied_head(plan.layout), recipe.output_head_bits));
    plan.unties_head = true;
    plan.warnings.push_back("the output head shares the embedding's weights; quantized, it gets " +
                            std::to_string(plan.layout.config.vocabulary_size) +
                            " rows of its own (untied)");
  }
  selection.check();
  add_cautions(plan);
  plan.tensors = plan_tensors(plan);
  count_bytes(plan);
  return plan;
}

}  // namespace nibble
