#include "src/pipeline/plan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibration/ranges.h"
#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "formats/name_pattern.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solvers.h"
#include "src/architecture/architecture.h"
#include "src/model/layout.h"
#include "src/pipeline/layer_scheme.h"
#include "src/pipeline/method.h"
#include "src/pipeline/mixture.h"
#include "src/pipeline/recipe.h"
#include "src/pipeline/write_model.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

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
  NamePattern expression;
  bool matched = false;
};

std::vector<Pattern> compile(const std::vector<std::string>& texts, const std::string& option) {
  std::vector<Pattern> patterns;
  for (const std::string& text : texts) patterns.push_back({text, {text, option}});
  return patterns;
}

bool any_matches(std::span<Pattern> patterns, const std::string& name) {
  bool found = false;
  for (Pattern& pattern : patterns) {
    if (!pattern.expression.is_found_in(name)) continue;
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

// What the recipe asks of each module.
class Selection {
 public:
  explicit Selection(const Recipe& recipe)
      : recipe_(recipe),
        include_(compile(recipe.include, "--include")),
        exclude_(compile(recipe.exclude, "--exclude")) {
    std::vector<std::string> texts;
    for (const Rule& rule : recipe.rules) texts.push_back(rule.modules);
    rules_ = compile(texts, "rules");
  }

  // None: the module is left as it is.
  std::optional<LayerChoice> choice(const LinearModule& module) {
    if (module.input == InputGroup::kOutputHead) return head_choice();
    const bool included = include_.empty() || any_matches(include_, module.name);
    if (any_matches(exclude_, module.name) || !included) return std::nullopt;
    LayerChoice choice = recipe_.layers;
    for (size_t i = 0; i < rules_.size(); ++i) {
      if (!any_matches({&rules_[i], 1}, module.name)) continue;
      const Rule& rule = recipe_.rules[i];
      if (rule.keep) return std::nullopt;
      choice.scheme = rule.choice.scheme.over(choice.scheme);
      if (!rule.choice.solver.empty()) choice.solver = rule.choice.solver;
      if (rule.choice.substitute) choice.substitute = rule.choice.substitute;
      break;
    }
    return choice;
  }

  void check() const {
    check_all_matched(include_, "--include");
    check_all_matched(exclude_, "--exclude");
    check_all_matched(rules_, "rules");
  }

 private:
  // Rounded to nearest: nothing is known of its inputs.
  std::optional<LayerChoice> head_choice() const {
    LayerChoice choice;
    choice.scheme = recipe_.layers.scheme;
    choice.solver = "rtn";
    if (mixture(choice.scheme.name) != nullptr) {
      choice.substitute = recipe_.layers.substitute;
      return choice;
    }
    if (!recipe_.output_head_bits) return std::nullopt;
    choice.scheme.name.clear();
    choice.scheme.bits = recipe_.output_head_bits;
    return choice;
  }

  const Recipe& recipe_;
  std::vector<Pattern> include_;
  std::vector<Pattern> exclude_;
  std::vector<Pattern> rules_;
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

// Whether a transform of its block may change the tensor: norms and biases of a block.
bool may_be_rewritten(const Plan& plan, const std::string& name) {
  if (plan.transforms.empty()) return false;
  const auto is_of = [&](const std::string& module) {
    return !module.empty() && name.starts_with(module + ".");
  };
  return std::any_of(
             plan.layout.norms.begin(), plan.layout.norms.end(),
             [&](const auto& norms) { return is_of(norms.attention) || is_of(norms.mlp); }) ||
         std::any_of(
             plan.layout.linears.begin(), plan.layout.linears.end(),
             [&](const LinearModule& module) { return module.block >= 0 && name == module.bias; });
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
    tensors.push_back({name, std::move(written), may_be_rewritten(plan, name)});
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

// llama.cpp's types have scales of their own.
std::string solver_of(const std::string& name, const SchemeChoice& scheme) {
  if (named_scheme(scheme).format != "gguf") return name;
  if (name == "rtn") return "ggml";
  return name == "gptq" ? "ggml-gptq" : name;
}

// Groups of columns that are no neighbours: act-order without static groups.
bool makes_column_groups(const PlannedModule& module, const GptqOptions& gptq) {
  const Scheme& scheme = *module.target.scheme;
  const int64_t columns = scheme.blocking.columns;
  return module.solver->name == "gptq" && scheme.grid.kind == Grid::Kind::kInteger &&
         gptq.act_order && !gptq.static_groups && columns != kAll && columns < module.target.K;
}

// GPTQ knows integers, and the floats that have rules for their scales: it starts from those.
void check_solver(const PlannedModule& module, const Recipe& recipe) {
  const Scheme& scheme = *module.target.scheme;
  if (module.solver->name != "gptq") return;
  if (scheme.grid.kind != Grid::Kind::kTable && !is_llm_int8(scheme)) return;
  if (is_fp8(scheme) || is_nvfp4(scheme) || is_mxfp4(scheme)) {
    if (recipe.gptq.search == ScaleSearch::kHessian && recipe.gptq.static_groups) return;
    throw Error(module.target.name,
                "gptq to " + describe(scheme) + " starts from the scales of round to nearest",
                "leave out --scale-search and --no-static-groups");
  }
  throw Error(
      module.target.name, "gptq does not choose codes of " + describe(scheme),
      "round to nearest (-m rtn), or choose w4a16, w8a8, nvfp4a16, mxfp4a16 or fp8-dynamic");
}

// The type, or another whose blocks divide rows of K if `may_substitute`: what was substituted is
// added to the warnings.
std::string fitting_type(const std::string& type, int64_t K, bool may_substitute,
                         const std::string& where, std::vector<std::string>& warnings) {
  const GgmlScheme* row = ggml_scheme(type);
  if (row == nullptr || K % row->block == 0 || !may_substitute) return type;
  const std::string_view substitute = substitute_type(type);
  if (substitute.empty() || K % ggml_scheme(substitute)->block != 0) return type;
  warnings.push_back(where + ": " + std::string(substitute) + " instead of " + type + ": rows of " +
                     std::to_string(K) + " are no multiple of its blocks of " +
                     std::to_string(row->block));
  return std::string(substitute);
}

// Mixtures resolved.
SchemeChoice layer_scheme(Plan& plan, const LinearModule& module, const LayerChoice& choice) {
  SchemeChoice scheme = choice.scheme;
  if (const Mixture* row = mixture(scheme.name)) {
    scheme.name = mixture_type(*row, plan.layout.config, module.roles, module.block);
  }
  scheme.name = fitting_type(scheme.name, module.K, choice.substitute.value_or(false), module.name,
                             plan.warnings);
  return scheme;
}

PlannedModule plan_module(Plan& plan, LinearModule module,
                          const std::optional<LayerChoice>& choice) {
  const Dtype dtype = stored_dtype(*plan.checkpoint, plan.layout, module);
  PlannedModule planned;
  planned.target = {.name = module.name,
                    .N = module.N,
                    .K = module.K,
                    .dtype = plan.recipe.dtype.value_or(dtype),
                    .transposed = module.transposed,
                    .has_column_groups = false,
                    .scheme = {}};
  if (choice) {
    const SchemeChoice scheme = layer_scheme(plan, module, *choice);
    planned.target.scheme = with_nvfp4_stored(make_scheme(scheme, plan.format->scale_type(dtype)),
                                              plan.format->name != "modelopt");
    planned.solver = &solver(solver_of(choice->solver, scheme));
    planned.rounding = &solver(solver_of("rtn", scheme));
    planned.target.has_column_groups = makes_column_groups(planned, plan.recipe.gptq);
    check_can_hold(*plan.format, planned.target);
    check_solver(planned, plan.recipe);
  }
  planned.module = std::move(module);
  return planned;
}

// Fills in what the recipe leaves to its method.
void resolve(Recipe& recipe) {
  if (recipe.method.empty()) recipe.method = recipe.is_calibrated() ? "gptq" : "rtn";
  const Method& row = method(recipe.method);
  SchemeChoice defaults;
  defaults.name = row.scheme;
  recipe.layers.scheme = recipe.layers.scheme.over(defaults);
  recipe.layers.scheme.name = named_scheme(recipe.layers.scheme).name;
  if (recipe.layers.solver.empty()) recipe.layers.solver = row.solver;
  if (!recipe.transforms) recipe.transforms.emplace(row.transforms.begin(), row.transforms.end());
  if (recipe.format.empty()) {
    const bool is_double = recipe.layers.scheme.double_quant.value_or(false);
    const NamedScheme& scheme = named_scheme(recipe.layers.scheme);
    recipe.format = is_double && row.scheme.empty() ? "nibble" : scheme.format;
  }
}

void check_calibration(const Plan& plan) {
  const Recipe& recipe = plan.recipe;
  const auto uses = [&](Needs needs) {
    return std::any_of(plan.modules.begin(), plan.modules.end(), [&](const PlannedModule& m) {
      return m.solver != nullptr && m.solver->needs == needs;
    });
  };
  const bool is_awq_alone = plan.transforms == std::vector<std::string>{"awq"};
  if (recipe.awq_block_search && !is_awq_alone) {
    throw Error("--awq-search block", "is for awq as the only transform",
                "search by the Hessian, or choose a method with awq alone");
  }
  const bool of_method = !plan.transforms.empty() || uses(Needs::kHessian);
  const bool needed = of_method || plan.has_static_activations();
  if (needed && !recipe.is_calibrated()) {
    throw Error(of_method ? "--method " + recipe.method : "--scheme " + recipe.layers.scheme.name,
                of_method ? "needs a calibration dataset"
                          : "has static activations: their range needs a calibration dataset",
                "add -d FILE, or --stats FILE of 'nibble calibrate'");
  }
  if (recipe.activation_range) {
    const std::string name(range_method(*recipe.activation_range).name);
    if (!plan.has_searched_ranges()) {
      throw Error("--activation-range " + name, "no layer has static activations in integers",
                  "leave it out, or choose --scheme w8a8-static");
    }
  }
  const bool smooths = std::ranges::find(plan.transforms, "smoothquant") != plan.transforms.end();
  for (const PlannedModule& m : plan.modules) {
    const bool has_floats =
        m.target.scheme && m.target.scheme->activations && m.target.scheme->activations->is_float;
    if (!smooths || !has_floats) continue;
    throw Error(
        m.target.name,
        "smoothquant is for integer activations, not " + describe(*m.target.scheme->activations),
        "floats need no smoothing: choose rtn or awq");
  }
  if (recipe.is_calibrated() && !needed && !uses(Needs::kImportance)) {
    throw Error(recipe.statistics.empty() ? "--dataset" : "--stats",
                "method " + recipe.method + " uses no calibration", "leave it out");
  }
}

void check_weight_range(const Plan& plan) {
  if (!plan.recipe.weight_range) return;
  const std::string name(range_method(*plan.recipe.weight_range).name);
  for (const PlannedModule& m : plan.modules) {
    if (!m.target.scheme) continue;
    if (m.solver->name == "rtn" && m.target.scheme->grid.kind == Grid::Kind::kInteger) continue;
    throw Error(m.target.name,
                "--weight-range " + name + " is for integers rounded to nearest, not " +
                    describe(*m.target.scheme) + " by " + std::string(m.solver->name),
                "leave it out; the other solvers choose ranges themselves");
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

// What a mixture makes of the embedding of a GGUF file; empty without one.
std::string mixture_embedding(const Plan& plan) {
  const Mixture* row = mixture(plan.recipe.layers.scheme.name);
  if (row == nullptr || !writes_one_file(*plan.format)) return {};
  constexpr std::array kHead = {Role::kOutputHead};
  const std::span<const Role> roles = plan.layout.head ? std::span<const Role>{} : kHead;
  return std::string(mixture_type(*row, plan.layout.config, roles, -1));
}

// recipe.embeddings, or the mixture's, applied to the tensor.
void set_embedding_type(Plan& plan) {
  std::string name =
      plan.recipe.embeddings.empty() ? mixture_embedding(plan) : plan.recipe.embeddings;
  if (name.empty()) return;
  if (!writes_one_file(*plan.format)) {
    throw Error("--embeddings", "is for the format gguf, not " + std::string(plan.format->name));
  }
  const auto tensor =
      std::ranges::find(plan.tensors, plan.layout.embedding, &PlannedTensor::source);
  name = fitting_type(name, tensor->written.shape.back(),
                      plan.recipe.layers.substitute.value_or(false), tensor->source, plan.warnings);
  const GgmlScheme* blocks = ggml_scheme(name);
  const GgufType* type = gguf_type(name);
  const bool plain = type != nullptr && type->dtype && is_float(*type->dtype);
  if (blocks == nullptr && !plain) {
    throw Error("--embeddings", "unknown type '" + name + "'", "f16, bf16, f32, q8_0, q6_k, ..");
  }
  if (plain) {
    tensor->written.dtype = *type->dtype;
    return;
  }
  const int64_t width = tensor->written.shape.back();
  if (width % blocks->block != 0) {
    std::string fitting;
    for (const GgmlScheme& row : ggml_schemes()) {
      if (width % row.block == 0) fitting += (fitting.empty() ? "" : ", ") + std::string(row.name);
    }
    throw Error("tensor '" + tensor->source + "'",
                "rows of " + std::to_string(width) + " are no multiple of " + name +
                    "'s blocks of " + std::to_string(blocks->block),
                fitting.empty() ? "no type fits but f16, bf16, f32" : "these fit: " + fitting);
  }
  tensor->blocks = blocks;
  tensor->written.dtype = Dtype::kF32;
}

void check_not_quantized(const Plan& plan) {
  if (plan.layout.format == nullptr || plan.recipe.requantize) return;
  throw Error(plan.checkpoint->folder().string(),
              "is quantized already (" + std::string(plan.layout.format->name) + ")",
              "'nibble export' repacks the same codes; --requantize decodes and quantizes again");
}

}  // namespace

bool Plan::has_static_activations() const {
  return std::any_of(modules.begin(), modules.end(), [](const PlannedModule& m) {
    return m.target.scheme && m.target.scheme->activations &&
           !m.target.scheme->activations->dynamic;
  });
}

bool Plan::has_searched_ranges() const {
  return std::any_of(modules.begin(), modules.end(), [](const PlannedModule& m) {
    return m.target.scheme && m.target.scheme->activations &&
           !m.target.scheme->activations->dynamic && !m.target.scheme->activations->is_float;
  });
}

TensorInfo PlannedTensor::stored() const {
  if (blocks == nullptr) return written;
  const GgufType& type = *gguf_type(blocks->name);
  const int64_t row_bytes = written.shape.back() / type.block * type.block_bytes;
  return {
      written.name + "." + std::string(type.name), Dtype::kU8, {written.shape.front(), row_bytes}};
}

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
  for (const PlannedTensor& tensor : tensors) all.push_back(tensor.stored());
  for (const PlannedModule& module : modules) {
    if (!module.target.scheme) continue;
    for (TensorInfo& tensor : format.layout(module.target)) all.push_back(std::move(tensor));
  }
  std::sort(all.begin(), all.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return natural_less(a.name, b.name); });
  return all;
}

Plan make_plan(const Recipe& recipe, std::shared_ptr<const Checkpoint> checkpoint) {
  Plan plan;
  plan.recipe = recipe;
  resolve(plan.recipe);
  plan.transforms = *plan.recipe.transforms;
  plan.checkpoint = std::move(checkpoint);
  plan.layout = read_layout(*plan.checkpoint);
  check_not_quantized(plan);
  plan.format = &format(plan.recipe.format);

  Selection selection(plan.recipe);
  for (const LinearModule& module : plan.layout.linears) {
    plan.modules.push_back(plan_module(plan, module, selection.choice(module)));
  }
  if (recipe.output_head_bits && mixture(plan.recipe.layers.scheme.name) != nullptr) {
    throw Error("--output-head w" + std::to_string(*recipe.output_head_bits),
                "the mixture " + plan.recipe.layers.scheme.name + " chooses the type of the head",
                "leave it out, or choose the type of all layers (q4_k, ..)");
  }
  if (!plan.layout.head && recipe.output_head_bits) {
    const LinearModule head = untied_head(plan.layout);
    plan.modules.push_back(plan_module(plan, head, selection.choice(head)));
    plan.unties_head = true;
    plan.warnings.push_back("the output head shares the embedding's weights; quantized, it gets " +
                            std::to_string(plan.layout.config.vocabulary_size) +
                            " rows of its own (untied)");
  }
  selection.check();
  check_calibration(plan);
  check_weight_range(plan);
  add_cautions(plan);
  plan.tensors = plan_tensors(plan);
  if (writes_one_file(*plan.format)) fit_to_one_file(plan.layout, plan.modules, plan.tensors);
  set_embedding_type(plan);
  count_bytes(plan);
  return plan;
}

}  // namespace nibble
