// nibble evaluate MODEL -d FILE [--reference MODEL]
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "kernels/matmul.h"
#include "src/cli/arguments.h"
#include "src/cli/command.h"
#include "src/cli/device_options.h"
#include "src/cli/option_checks.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/device_name.h"
#include "src/pipeline/evaluate.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// As typed.
struct EvaluateArguments {
  std::string model;
  std::string reference;
  EvaluateOptions options;
  std::string protocol = "hf";
  std::string ids_dtype = "u16";
  std::string products = "auto";
  DeviceArguments device;
  std::optional<double> max_perplexity;
  std::string max_perplexity_increase;
  std::optional<double> max_kl;
};

// A condition on the result, and whether it holds.
struct Gate {
  std::string text;
  bool passed;
};

std::vector<Gate> gates_of(const EvaluateArguments& typed, const EvaluateResult& result) {
  std::vector<Gate> gates;
  if (typed.max_perplexity) {
    gates.push_back({"perplexity " + format_number(result.perplexity, 4) + ", at most " +
                         format_number(*typed.max_perplexity, 4),
                     result.perplexity <= *typed.max_perplexity});
  }
  if (!typed.max_perplexity_increase.empty()) {
    const double limit = parse_fraction(typed.max_perplexity_increase, "--max-perplexity-increase");
    const double increase = result.perplexity / result.comparison->reference_perplexity - 1;
    gates.push_back({"perplexity increase " + format_number(100 * increase, 2) + " %, at most " +
                         format_number(100 * limit, 2) + " %",
                     increase <= limit});
  }
  if (typed.max_kl) {
    const double kl = result.comparison->kl_divergence;
    gates.push_back(
        {"KL divergence " + format_number(kl, 5) + ", at most " + format_number(*typed.max_kl, 5),
         kl <= *typed.max_kl});
  }
  return gates;
}

// Before the work, what is wrong with them.
void check_gates(const EvaluateArguments& typed) {
  if (!typed.max_perplexity_increase.empty()) {
    parse_fraction(typed.max_perplexity_increase, "--max-perplexity-increase");
  }
  if (!typed.reference.empty()) return;
  if (typed.max_perplexity_increase.empty() && !typed.max_kl) return;
  throw Error(typed.max_kl ? "--max-kl" : "--max-perplexity-increase",
              "compares with a reference, and none is given", "add --reference MODEL");
}

void read_device(EvaluateArguments& typed) {
  EvaluateOptions& options = typed.options;
  const auto [device, max_vram] = choose_device(typed.device);
  options.device = device;
  options.max_vram = max_vram;
  if (options.device == Device::kCuda && options.simulate_activations) {
    throw Error("--simulate-activations", "is not computed on a GPU", "add --device cpu");
  }
  if (options.device == Device::kCuda && typed.products != "auto") {
    throw Error("--products", "is of the CPU's products, and a GPU is used", "add --device cpu");
  }
  options.products = products_from_name(typed.products);
}

Json to_json(const EvaluateArguments& typed, const EvaluateResult& result,
             const std::vector<Gate>& gates) {
  Json json;
  json["model"] = typed.model;
  json["dataset"] = typed.options.dataset.string();
  json["protocol"] = protocol_name(typed.options.protocol);
  json["device"] = device_name(typed.options.device);
  if (typed.options.device == Device::kCpu) {
    json["products"] = products_name(typed.options.products);
  }
  json["seq_len"] = result.seq_len;
  json["windows"] = result.windows;
  json["tokens"] = result.tokens;
  json["nll"] = result.nll;
  json["perplexity"] = result.perplexity;
  json["perplexity_stderr"] = result.perplexity_stderr;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = static_cast<double>(result.windows * result.seq_len) / result.seconds;
  json["peak_ram_bytes"] = result.peak_ram_bytes;
  if (result.comparison) {
    json["reference"] = typed.reference;
    json["reference_perplexity"] = result.comparison->reference_perplexity;
    json["kl_divergence"] = result.comparison->kl_divergence;
    json["kl_p99"] = result.comparison->kl_p99;
    json["top1_agreement"] = result.comparison->top1_agreement;
  }
  if (!gates.empty()) {
    json["gates"] = Json::array();
    for (const Gate& gate : gates)
      json["gates"].push_back({{"gate", gate.text}, {"passed", gate.passed}});
  }
  return json;
}

void print_result(const EvaluateOptions& options, const EvaluateResult& result) {
  print("perplexity " + format_number(result.perplexity, 4) + " +- " +
        format_number(result.perplexity_stderr, 4) + "  (nll " + format_number(result.nll, 6) +
        ", protocol " + std::string(protocol_name(options.protocol)) + ", " +
        std::to_string(result.windows) + " windows of " + std::to_string(result.seq_len) + ", " +
        std::to_string(result.tokens) + " tokens scored)");
  if (result.comparison) {
    const auto& c = *result.comparison;
    print("reference perplexity " + format_number(c.reference_perplexity, 4) + ", increase " +
          format_number(100 * (result.perplexity / c.reference_perplexity - 1), 2) + " %");
    print("KL divergence " + format_number(c.kl_divergence, 5) +
          " nats per token (99th percentile " + format_number(c.kl_p99, 4) + "), same top token " +
          format_number(100 * c.top1_agreement, 2) + " %");
  }
  const double rate = static_cast<double>(result.windows * result.seq_len) / result.seconds;
  const bool is_fixed = options.device == Device::kCpu && options.products == Products::kFixed;
  print(std::string(device_name(options.device)) +
        (is_fixed ? ", products in 16-bit fixed point, " : ", ") + format_seconds(result.seconds) +
        ", " + format_number(rate, 0) + " tokens/s, peak memory " +
        format_bytes(result.peak_ram_bytes));
}

int run(EvaluateArguments& typed, const CommandLine& line) {
  typed.options.protocol = protocol_from_name(typed.protocol);
  typed.options.dataset_options.ids_dtype = parse_integer_type(typed.ids_dtype, "--ids-dtype");
  check_gates(typed);
  read_device(typed);
  const auto open = [](const std::string& model) {
    return std::make_shared<const Checkpoint>(open_checkpoint(model));
  };
  const auto checkpoint = open(typed.model);
  const auto reference = typed.reference.empty() ? nullptr : open(typed.reference);
  const EvaluateResult result = evaluate(checkpoint, reference, typed.options, make_progress(line));
  const std::vector<Gate> gates = gates_of(typed, result);
  if (line.json) {
    print_json(to_json(typed, result, gates));
  } else {
    print_result(typed.options, result);
  }
  bool passed = true;
  for (const Gate& gate : gates) {
    print_message((gate.passed ? "passed: " : "failed: ") + gate.text);
    passed = passed && gate.passed;
  }
  return passed ? kDone : kGateFailed;
}

}  // namespace

void declare_evaluate(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<EvaluateArguments>();
  EvaluateOptions& options = typed->options;
  command.add_option("MODEL", typed->model, "model folder")->required();
  command
      .add_option("-d,--dataset", options.dataset,
                  "text (.txt .raw .jsonl .json, .gz) or ids (.npy .bin)")
      ->required();
  command.add_option("--reference", typed->reference,
                     "model to compare with: KL divergence, agreement");
  command
      .add_option("--seq-len", options.seq_len,
                  "tokens per window (default: 2048, at most the context)")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--stride", options.stride,
                  "tokens between windows (default: the window's length)")
      ->check(CLI::PositiveNumber);
  command.add_flag("--simulate-activations", options.simulate_activations,
                   "quantized activations in float, to compare with the integers");
  command
      .add_option(
          "--products", typed->products,
          "of dense weights on the CPU: float, 16-bit fixed point (fixed), or auto, which is "
          "fixed where the CPU has VNNI (nll off by 1e-7 to 1e-5)")
      ->capture_default_str();
  declare_device(command, typed->device);
  command.add_option("--limit", options.limit, "only the first ids of the text")
      ->check(CLI::PositiveNumber);
  command.add_option("--protocol", typed->protocol, "hf or llama.cpp")->capture_default_str();
  command.add_option("--text-key", options.dataset_options.text_key, "key of the text in JSON")
      ->capture_default_str();
  command.add_option("--ids-dtype", typed->ids_dtype, "integer type of .bin")
      ->capture_default_str();
  command.add_option("--max-perplexity", typed->max_perplexity, "exit with 1 above this")
      ->check(number_in(0));
  command.add_option("--max-perplexity-increase", typed->max_perplexity_increase,
                     "exit with 1 above this, for example 2%");
  command.add_option("--max-kl", typed->max_kl, "exit with 1 above this")->check(number_in(0));
  line.run = [typed, &line] { return run(*typed, line); };
}

}  // namespace nibble
