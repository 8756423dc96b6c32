// nibble quantize MODEL -o DIR
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "quantizers/solvers/solvers.h"
#include "src/cli/arguments.h"
#include "src/cli/calibration_options.h"
#include "src/cli/command.h"
#include "src/cli/option_checks.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"
#include "src/pipeline/recipe.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// As typed; what is in the recipe is typed there, over a recipe file's.
struct QuantizeArguments {
  std::string model;
  std::string output;
  Recipe recipe;
  std::string output_head;
  std::string dtype;
  std::string scale_search;
  std::string alpha;
  std::string awq_search;
  std::string ids_dtype = "u16";
  std::string shard_size;
  bool force = false;
};

Recipe resolve(const QuantizeArguments& typed) {
  Recipe recipe = typed.recipe;
  if (!typed.scale_search.empty()) recipe.gptq.search = scale_search_from_name(typed.scale_search);
  if (typed.alpha == "auto") {
    recipe.transform_options.alpha.reset();
  } else if (!typed.alpha.empty()) {
    recipe.transform_options.alpha = parse_fraction(typed.alpha, "--alpha");
  }
  if (!typed.awq_search.empty()) {
    if (typed.awq_search != "hessian" && typed.awq_search != "block") {
      throw Error("--awq-search", "unknown search '" + typed.awq_search + "'",
                  "known: hessian, block");
    }
    recipe.awq_block_search = typed.awq_search == "block";
  }
  recipe.calibration.dataset_options.ids_dtype = parse_integer_type(typed.ids_dtype, "--ids-dtype");
  if (!typed.output_head.empty()) {
    recipe.output_head_bits = parse_weight_bits(typed.output_head, "--output-head");
  }
  if (!typed.dtype.empty()) recipe.dtype = parse_float_type(typed.dtype, "--dtype");
  return recipe;
}

Json number_or_null(std::optional<double> value) { return value ? Json(*value) : Json(); }

Json to_json(const Plan& plan, const QuantizeReport& report, const std::string& output) {
  Json json;
  json["output"] = output;
  json["format"] = plan.format->name;
  json["method"] = plan.recipe.method;
  json["recipe"] = to_json(plan.recipe);
  json["calibration"] = report.calibration;
  json["calibration_data"] = report.data;
  json["bits_per_weight"] = plan.bits_per_weight;
  json["bytes_in"] = plan.bytes_in;
  json["bytes_out"] = report.bytes_out;
  json["seconds"] = report.seconds;
  json["peak_ram_bytes"] = report.peak_ram_bytes;
  json["transforms"] = Json::array();
  for (const TransformReport& row : report.transforms) {
    json["transforms"].push_back({{"block", row.block},
                                  {"group", row.group},
                                  {"transform", row.transform},
                                  {"how", row.how},
                                  {"score_before", row.score_before},
                                  {"score_after", row.score_after},
                                  {"smallest_scale", row.smallest},
                                  {"largest_scale", row.largest},
                                  {"limited", row.limited}});
  }
  json["modules"] = Json::array();
  for (const ModuleReport& module : report.modules) {
    json["modules"].push_back({{"name", module.name},
                               {"shape", {module.N, module.K}},
                               {"scheme", module.scheme},
                               {"solver", module.solver},
                               {"weight_error", module.weight_error},
                               {"output_error", number_or_null(module.output_error)},
                               {"held_out_error", number_or_null(module.held_out_error)},
                               {"damping", number_or_null(module.damping)},
                               {"snr_db", module.snr_db},
                               {"clip_share", module.clip_share},
                               {"entropy_bits", module.entropy_bits},
                               {"huffman_bits", module.huffman_bits},
                               {"clipped_groups", module.clipped_groups},
                               {"seconds", module.seconds},
                               {"note", module.note}});
  }
  json["warnings"] = report.warnings;
  return json;
}

// The error that counts: of the outputs where it is known.
double error_of(const ModuleReport& module) {
  return module.held_out_error.value_or(module.output_error.value_or(module.weight_error));
}

std::string percent(std::optional<double> share) {
  return share ? format_number(100 * *share, 2) + " %" : "-";
}

// The five layers with the largest errors, and what may help them.
void print_worst(const Plan& plan, const QuantizeReport& report) {
  constexpr size_t kShown = 5;
  std::vector<const ModuleReport*> modules;
  for (const ModuleReport& module : report.modules) modules.push_back(&module);
  const size_t shown = std::min(kShown, modules.size());
  if (shown == 0) return;
  std::partial_sort(
      modules.begin(), modules.begin() + static_cast<std::ptrdiff_t>(shown), modules.end(),
      [](const ModuleReport* a, const ModuleReport* b) { return error_of(*a) > error_of(*b); });
  std::vector<std::vector<std::string>> rows = {
      {"worst layers", "weight error", "output error", "held out", "SNR", "entropy", "solver"}};
  for (size_t i = 0; i < shown; ++i) {
    const ModuleReport& module = *modules[i];
    rows.push_back({module.name, percent(module.weight_error), percent(module.output_error),
                    percent(module.held_out_error), format_number(module.snr_db, 1) + " dB",
                    format_number(module.entropy_bits, 2) + " bits", module.solver});
  }
  print(format_table(rows));
  const int bits = plan.recipe.layers.scheme.bits.value_or(4);
  if (bits < 8 && error_of(*modules[0]) > 0.2) {
    print("more bits for them: --recipe FILE with 'rules: [{modules: \"" + modules[0]->name +
          "\", bits: " + std::to_string(bits + 1) + "}]'");
  }
}

void print_report(const Plan& plan, const QuantizeReport& report, const std::string& output) {
  print("wrote " + output + " (" + std::string(plan.format->name) + ")");
  print(std::to_string(report.modules.size()) + " linear layers, method " + plan.recipe.method +
        ", " + format_number(plan.bits_per_weight, 3) + " bits per weight, " +
        format_bytes(plan.bytes_in) + " -> " + format_bytes(report.bytes_out) + " in " +
        format_seconds(report.seconds) + ", peak memory " + format_bytes(report.peak_ram_bytes));
  print_worst(plan, report);
  print("verified: every code, parameter and untouched tensor reads back as meant");
}

// Turning off what is not there loses nothing.
void refuse_unused(const CLI::App& command, const Plan& plan) {
  const Recipe& recipe = plan.recipe;
  const auto transforms = [&](std::string_view name) {
    return std::ranges::find(plan.transforms, name) != plan.transforms.end();
  };
  const bool reads = !recipe.calibration.dataset.empty();
  const bool folds = reads && recipe.statistics.empty();
  const bool has_gptq = std::ranges::any_of(plan.modules, [](const PlannedModule& module) {
    return module.solver != nullptr && module.solver->needs == Needs::kHessian;
  });
  constexpr std::string_view kReads = "calibration with a dataset (-d)";
  constexpr std::string_view kFolds = "calibration with a dataset (-d), not saved statistics";
  constexpr std::string_view kGptq = "the solver gptq";
  refuse_unused(
      command,
      std::array{
          OptionUse{"--samples", reads, kReads},
          OptionUse{"--seq-len", reads, kReads},
          OptionUse{"--seed", reads, kReads},
          OptionUse{"--no-pack", reads, kReads},
          OptionUse{"--text-key", reads, kReads},
          OptionUse{"--ids-dtype", reads, kReads},
          OptionUse{"--overlap", folds, kFolds},
          OptionUse{"--correct-past", folds, kFolds},
          OptionUse{"--true-sequential", folds || !recipe.true_sequential, kFolds},
          OptionUse{"--guard", has_gptq || recipe.guard == false, kGptq},
          OptionUse{"--act-order", has_gptq || !recipe.gptq.act_order, kGptq},
          OptionUse{"--static-groups", has_gptq || !recipe.gptq.static_groups, kGptq},
          OptionUse{"--scale-search", has_gptq, kGptq},
          OptionUse{"--damp", has_gptq, kGptq},
          OptionUse{"--sweeps", has_gptq, kGptq},
          OptionUse{"--alpha", transforms("smoothquant"), "smoothquant"},
          OptionUse{"--awq-search", transforms("awq"), "awq"},
          OptionUse{"--clip", transforms("awq") || !recipe.transform_options.clip, "awq"},
          OptionUse{"--percentile",
                    recipe.activation_range == "percentile" || recipe.weight_range == "percentile",
                    "ranges by percentile"},
          OptionUse{"--substitute",
                    plan.format->name == "gguf" || recipe.layers.substitute == false, "-f gguf"},
      });
}

int run(const QuantizeArguments& typed, const CLI::App& command, const CommandLine& line) {
  const Recipe recipe = resolve(typed);
  OutputOptions output;
  output.folder = typed.output;
  output.force = typed.force;
  if (!typed.shard_size.empty()) output.shard_bytes = parse_size(typed.shard_size, "--shard-size");
  const auto checkpoint = std::make_shared<const Checkpoint>(open_checkpoint(typed.model));
  const Plan plan = make_plan(recipe, checkpoint);
  refuse_unused(command, plan);
  if (recipe.method.empty() && !line.quiet) print_message("method: " + plan.recipe.method);
  const QuantizeReport report = quantize(plan, output, make_progress(line));
  for (const std::string& fact : report.data) {
    if (!line.quiet) print_message("calibration: " + fact);
  }
  for (const std::string& warning : report.warnings) print_message("warning: " + warning);
  for (const ModuleReport& module : report.modules) {
    if (!module.note.empty()) print_message("note: " + module.name + ": " + module.note);
  }
  if (line.json) {
    print_json(to_json(plan, report, typed.output));
  } else {
    print_report(plan, report, typed.output);
  }
  return kDone;
}

// A flag and its opposite, "--x,!--no-x", or neither.
void add_switch(CLI::App& command, const std::string& names, std::optional<bool>& value,
                const std::string& help) {
  command.add_flag_function(
      names, [&value](int64_t count) { value = count > 0; }, help);
}

// The recipe file is read when its option is parsed, which is declared first: the options after it
// change what it says.
void declare_recipe(CLI::App& command, QuantizeArguments& typed) {
  command
      .add_option_function<std::string>(
          "--recipe", [&typed](const std::string& file) { typed.recipe = read_recipe(file); },
          "YAML file of the options below, or a nibble.json; options given here come before it")
      ->trigger_on_parse();
}

void declare_calibration(CLI::App& command, QuantizeArguments& typed) {
  declare_windows(command, typed.recipe.calibration, typed.ids_dtype);
  command.add_option("--overlap", typed.recipe.overlap,
                     "evaluation data: say how much of it calibration has seen");
  command.add_option("--stats", typed.recipe.statistics,
                     "statistics of 'nibble calibrate' instead of a dataset");
  command
      .add_option("--correct-past", typed.recipe.correct_past,
                  "share of the quantized past's error to make good (default: 0.8; 0 for w8a8)")
      ->check(number_in(0, 1));
  command.add_flag("--true-sequential,!--no-true-sequential", typed.recipe.true_sequential,
                   "statistics again after each group of layers of a block");
  add_switch(command, "--guard,!--no-guard", typed.recipe.guard,
             "keep round to nearest where it is better on every 8th window, which is kept "
             "out (default: at 3 bits and fewer)");
}

void declare_gptq(CLI::App& command, QuantizeArguments& typed) {
  GptqOptions& gptq = typed.recipe.gptq;
  command.add_flag("--act-order,!--no-act-order", gptq.act_order,
                   "gptq: columns by falling diag(H)");
  command.add_flag("--static-groups,!--no-static-groups", gptq.static_groups,
                   "gptq: groups of neighbouring columns, fitted beforehand");
  command.add_option("--scale-search", typed.scale_search,
                     "gptq: hessian, mse or minmax (default: hessian)");
  command.add_option("--damp", gptq.damp, "gptq: share of the Hessian's mean diagonal")
      ->check(number_in(1e-9, 1))
      ->capture_default_str();
  command
      .add_option("--sweeps", typed.recipe.sweeps,
                  "gptq: rounds of refinement (default: 2; 0 for w8a8)")
      ->check(CLI::Range(0, 100));
}

void declare_transforms(CLI::App& command, QuantizeArguments& typed) {
  command.add_option("--alpha", typed.alpha,
                     "smoothquant: 0 to 1, or auto: searched for every group (default: 0.8)");
  command.add_option("--awq-search", typed.awq_search,
                     "awq: score on the Hessian's error or the block's output: hessian or block "
                     "(default: hessian)");
  command.add_flag("--clip,!--no-clip", typed.recipe.transform_options.clip,
                   "awq: shrink ranges where that helps (with -m awq)");
}

void declare_ranges(CLI::App& command, QuantizeArguments& typed) {
  command.add_option("--activation-range", typed.recipe.activation_range,
                     "of static activations: minmax, moving-average, percentile, mse or entropy "
                     "(default: mse)");
  command.add_option("--weight-range", typed.recipe.weight_range,
                     "rtn: of the weights that share a scale, likewise (default: minmax)");
  command.add_option("--percentile", typed.recipe.percentile, "of the ranges by percentile")
      ->check(number_in(50, 100))
      ->capture_default_str();
}

void declare_layers(CLI::App& command, QuantizeArguments& typed) {
  Recipe& recipe = typed.recipe;
  SchemeChoice& scheme = recipe.layers.scheme;
  command.add_option("-m,--method", recipe.method,
                     "see 'nibble list methods' (default: gptq with a dataset, rtn without)");
  command.add_option("--solver", recipe.layers.solver, "instead of the method's");
  command.add_option("--transform", recipe.transforms, "instead of the method's")
      ->allow_extra_args(false);
  command.add_option("-b,--bits", scheme.bits, "bits of a weight's code, 2 to 8 (default: 4)")
      ->check(CLI::Range(2, 8));
  command.add_option("-g,--group-size", scheme.group_size,
                     "columns that share a scale; -1: the whole row (default: 128)");
  add_switch(command, "--symmetric,!--asymmetric", scheme.symmetric,
             "no zero points (default: asymmetric)");
  command.add_option("--scheme", scheme.name, "see 'nibble list schemes', instead of --bits");
  add_switch(command, "--double-quant", scheme.double_quant, "scales are quantized too");
  add_switch(command, "--substitute", recipe.layers.substitute,
             "gguf: where a type's blocks of 256 do not divide the rows, the type that llama.cpp "
             "takes then (default: an error)");
  command
      .add_option("--include", recipe.include, "only linear layers whose name matches this regex")
      ->allow_extra_args(false);
  command.add_option("--exclude", recipe.exclude, "leave these linear layers as they are")
      ->allow_extra_args(false);
}

}  // namespace

void declare_quantize(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<QuantizeArguments>();
  Recipe& recipe = typed->recipe;
  command.add_option("MODEL", typed->model, "model folder")->required();
  command.add_option("-o,--output", typed->output, "folder to write; gguf: file")->required();
  declare_recipe(command, *typed);
  declare_layers(command, *typed);
  declare_calibration(command, *typed);
  declare_gptq(command, *typed);
  declare_transforms(command, *typed);
  declare_ranges(command, *typed);
  command.add_option(
      "-f,--format", recipe.format,
      "see 'nibble list formats' (default: the scheme's, see 'nibble list schemes')");
  command.add_option("--dtype", typed->dtype, "f16, bf16, f32: type of everything written dense");
  command.add_option("--output-head", typed->output_head,
                     "w2 to w8: quantize the output head too (default: left as it is)");
  command.add_option("--embeddings", recipe.embeddings,
                     "gguf: type of the token embedding, f16 or q8_0, q6_k, ..");
  command.add_flag("--requantize", recipe.requantize,
                   "decode a quantized model and quantize again");
  command.add_option("--shard-size", typed->shard_size, "limit of one file (default: 5G)");
  command.add_flag("--force", typed->force, "replace an existing output");
  line.run = [typed, &command, &line] { return run(*typed, command, line); };
}

}  // namespace nibble
