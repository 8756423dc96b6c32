// nibble generate MODEL -p TEXT
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "formats/checkpoint.h"
#include "src/cli/command.h"
#include "src/cli/device_options.h"
#include "src/cli/option_checks.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/device_name.h"
#include "src/pipeline/generate.h"

namespace nibble {
namespace {

void write_piece(std::string_view piece) {
  std::fwrite(piece.data(), 1, piece.size(), stdout);
  std::fflush(stdout);
}

int run(const std::string& model, const GenerateOptions& options, const CommandLine& line) {
  const auto checkpoint = std::make_shared<const Checkpoint>(open_checkpoint(model));
  bool begun = false;
  const auto show = [&](std::string_view piece) {
    if (line.json) return;
    if (!std::exchange(begun, true)) write_piece(options.prompt);
    write_piece(piece);
  };
  const GenerateResult result = generate(checkpoint, options, show);
  show("");
  const double rate = result.seconds > 0 ? static_cast<double>(result.tokens) / result.seconds : 0;
  if (line.json) {
    print_json({{"model", model},
                {"device", device_name(options.device)},
                {"prompt", options.prompt},
                {"text", result.text},
                {"prompt_tokens", result.prompt_tokens},
                {"tokens", result.tokens},
                {"ended", result.ended},
                {"prompt_seconds", result.prompt_seconds},
                {"seconds", result.seconds},
                {"tokens_per_second", rate}});
    return kDone;
  }
  print("");
  if (!line.quiet) {
    print_message(std::to_string(result.tokens) + " tokens, " + format_number(rate, 1) +
                  " tokens/s" + (result.ended ? ", ended by the model" : ""));
  }
  return kDone;
}

}  // namespace

void declare_generate(CLI::App& command, CommandLine& line) {
  struct GenerateArguments {
    std::string model;
    GenerateOptions options;
    DeviceArguments device;
  };
  auto typed = std::make_shared<GenerateArguments>();
  GenerateOptions& options = typed->options;
  command.add_option("MODEL", typed->model, "model folder")->required();
  command.add_option("-p,--prompt", options.prompt, "text to continue")->required();
  command.add_option("-n,--tokens", options.tokens, "tokens to generate")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--temperature", options.temperature, "0: always the most likely token")
      ->check(number_in(0))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "of the sampling")->capture_default_str();
  declare_device(command, typed->device);
  line.run = [typed, &line] {
    const auto [device, max_vram] = choose_device(typed->device);
    typed->options.device = device;
    typed->options.max_vram = max_vram;
    return run(typed->model, typed->options, line);
  };
}

}  // namespace nibble
