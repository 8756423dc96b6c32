// nibble quantize MODEL -o DIR
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "src/cli/arguments.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/pipeline/method.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// As typed.
struct Typed {
  std::string model;
  std::string output;
  Recipe recipe;
  std::string scheme;
  std::string output_head;
  std::string dtype;
  std::string shard_size;
  std::string method;
  std::string scale_search = "hessian";
  std::string ids_dtype = "u16";
  bool force = false;
};

// w4a16 -> 4 bits.
void apply_scheme(const std::string& scheme, Recipe& recipe) {
  if (scheme.empty()) return;
  const size_t a16 = scheme.find("a16");
  if (a16 == std::string::npos || a16 + 3 != scheme.size()) {
    throw Error("--scheme", "unknown scheme '" + scheme + "'", "known: w2a16 to w8a16");
  }
  recipe.bits = parse_weight_bits(scheme.substr(0, a16), "--scheme");
}

Recipe resolve(const Typed& typed) {
  Recipe recipe = typed.recipe;
  apply_scheme(typed.scheme, recipe);
  if (recipe.group_size != -1 && recipe.group_size < 1) {
    throw Error("--group-size", std::to_string(recipe.group_size) + " is no group size",
                "a number of columns, or -1 for the whole row");
  }
  recipe.method = !typed.method.empty()                ? typed.method
                  : recipe.calibration.dataset.empty() ? "rtn"
                                                       : "gptq";
  recipe.gptq.search = scale_search_from_name(typed.scale_search);
  recipe.calibration.dataset_options.ids_dtype = parse_integer_type(typed.ids_dtype, "--ids-dtype");
  if (!typed.output_head.empty()) {
    recipe.output_head_bits = parse_weight_bits(typed.output_head, "--output-head");
  }
  if (!typed.dtype.empty()) recipe.dtype = parse_float_type(typed.dtype, "--dtype");
  return recipe;
}

Json to_json(const Plan& plan, const QuantizeReport& report, const std::string& output) {
  Json json;
  json["output"] = output;
  json["format"] = plan.format->name;
  json["method"] = plan.recipe.method;
  json["recipe"] = to_json(plan.recipe);
  json["bits_per_weight"] = plan.bits_per_weight;
  json["bytes_in"] = plan.bytes_in;
  json["bytes_out"] = report.bytes_out;
  json["seconds"] = report.seconds;
  json["peak_ram_bytes"] = report.peak_ram_bytes;
  json["modules"] = Json::array();
  for (const ModuleReport& module : report.modules) {
    json["modules"].push_back(
        {{"name", module.name},
         {"shape", {module.N, module.K}},
         {"scheme", module.scheme},
         {"weight_error", module.weight_error},
         {"output_error", module.output_error ? Json(*module.output_error) : Json()},
         {"damping", module.damping ? Json(*module.damping) : Json()},
         {"seconds", module.seconds},
         {"note", module.note}});
  }
  json["warnings"] = report.warnings;
  return json;
}

void print_report(const Plan& plan, const QuantizeReport& report, const std::string& output) {
  const auto worst = std::max_element(
      report.modules.begin(), report.modules.end(),
      [](const auto& a, const auto& b) { return a.weight_error < b.weight_error; });
  print("wrote " + output + " (" + std::string(plan.format->name) + ")");
  print(std::to_string(report.modules.size()) + " linear layers, method " + plan.recipe.method +
        ", " + format_number(plan.bits_per_weight, 3) + " bits per weight, " +
        format_bytes(plan.bytes_in) + " -> " + format_bytes(report.bytes_out) + " in " +
        format_seconds(report.seconds) + ", peak memory " + format_bytes(report.peak_ram_bytes));
  if (worst != report.modules.end()) {
    print("largest weight error " + format_number(100 * worst->weight_error, 2) + " % (" +
          worst->name + ")");
  }
  print("verified: every code, parameter and untouched tensor reads back as meant");
}

int run(const Typed& typed, const CommandLine& line) {
  const Recipe recipe = resolve(typed);
  OutputOptions output;
  output.folder = typed.output;
  output.force = typed.force;
  if (!typed.shard_size.empty()) output.shard_bytes = parse_size(typed.shard_size, "--shard-size");
  const auto checkpoint = std::make_shared<const Checkpoint>(Checkpoint::open(typed.model));
  const Plan plan = make_plan(recipe, checkpoint);
  if (typed.method.empty() && !line.quiet) print_message("method: " + recipe.method);
  const QuantizeReport report = quantize(plan, output, make_progress(line));
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

void declare_calibration(CLI::App& command, Typed& typed) {
  CalibrationOptions& calibration = typed.recipe.calibration;
  GptqOptions& gptq = typed.recipe.gptq;
  command.add_option("-d,--dataset", calibration.dataset,
                     "calibration text (.txt .raw .jsonl .json, .gz) or ids (.npy .bin)");
  command.add_option("--samples", calibration.samples, "calibration windows")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--seq-len", calibration.seq_len, "tokens per window, at most the context")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--seed", calibration.seed, "of the order of documents")
      ->capture_default_str();
  command.add_flag("!--no-pack", calibration.pack,
                   "one document per window instead of joining them");
  command.add_option("--text-key", calibration.dataset_options.text_key, "key of the text in JSON")
      ->capture_default_str();
  command.add_option("--ids-dtype", typed.ids_dtype, "integer type of .bin")->capture_default_str();
  command.add_flag("--act-order,!--no-act-order", gptq.act_order,
                   "gptq: columns by falling diag(H)");
  command.add_flag("--static-groups,!--no-static-groups", gptq.static_groups,
                   "gptq: groups of neighbouring columns, fitted beforehand");
  command.add_option("--scale-search", typed.scale_search, "gptq: hessian, mse or minmax")
      ->capture_default_str();
  command.add_option("--damp", gptq.damp, "gptq: share of the Hessian's mean diagonal")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command.add_option("--sweeps", gptq.sweeps, "gptq: rounds of refinement")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  command.add_flag("--true-sequential,!--no-true-sequential", typed.recipe.true_sequential,
                   "gptq: statistics again after each group of layers of a block");
  command
      .add_option("--correct-past", typed.recipe.correct_past,
                  "gptq: share of the quantized past's error to make good")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

}  // namespace

void declare_quantize(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<Typed>();
  Recipe& recipe = typed->recipe;
  command.add_option("MODEL", typed->model, "model folder")->required();
  command.add_option("-o,--output", typed->output, "folder to write")->required();
  command.add_option("-m,--method", typed->method,
                     "see 'nibble list methods' (default: gptq with a dataset, rtn without)");
  declare_calibration(command, *typed);
  command.add_option("-b,--bits", recipe.bits, "bits of a weight's code, 2 to 8")
      ->check(CLI::Range(2, 8))
      ->capture_default_str();
  command
      .add_option("-g,--group-size", recipe.group_size,
                  "columns that share a scale; -1: the whole row")
      ->capture_default_str();
  command.add_flag("--symmetric,!--asymmetric", recipe.symmetric,
                   "no zero points (default: asymmetric)");
  command.add_option("--scheme", typed->scheme, "w2a16 to w8a16, instead of --bits");
  command.add_option(
      "-f,--format", recipe.format,
      "see 'nibble list formats' (default: compressed-tensors for 4 and 8 bits, gptq for 2 "
      "and 3, else nibble)");
  command.add_option("--dtype", typed->dtype, "f16, bf16, f32: type of everything written dense");
  command.add_option("--output-head", typed->output_head,
                     "w2 to w8: quantize the output head too (default: left as it is)");
  command
      .add_option("--include", recipe.include, "only linear layers whose name matches this regex")
      ->allow_extra_args(false);
  command.add_option("--exclude", recipe.exclude, "leave these linear layers as they are")
      ->allow_extra_args(false);
  command.add_flag("--requantize", recipe.requantize,
                   "decode a quantized model and quantize again");
  command.add_option("--shard-size", typed->shard_size, "limit of one file (default: 5G)");
  command.add_flag("--force", typed->force, "replace an existing output");
  line.run = [typed, &line] { return run(*typed, line); };
}

}  // namespace nibble
