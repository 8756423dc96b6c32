// nibble export QUANTIZED -f FORMAT -o DIR
#include <memory>
#include <string>

#include "formats/checkpoint.h"
#include "src/cli/arguments.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/export.h"

namespace nibble {
namespace {

// As typed.
struct ExportArguments {
  std::string model;
  std::string output;
  std::string format;
  std::string dtype;
  std::string shard_size;
  bool force = false;
};

int run(const ExportArguments& typed, const CommandLine& line) {
  ExportOptions options;
  options.format = typed.format;
  if (!typed.dtype.empty()) options.dtype = parse_float_type(typed.dtype, "--dtype");
  options.output.folder = typed.output;
  options.output.force = typed.force;
  if (!typed.shard_size.empty()) {
    options.output.shard_bytes = parse_size(typed.shard_size, "--shard-size");
  }
  const auto checkpoint = std::make_shared<const Checkpoint>(open_checkpoint(typed.model));
  const ExportReport report = export_checkpoint(checkpoint, options, make_progress(line));
  for (const std::string& warning : report.warnings) print_message("warning: " + warning);
  if (line.json) {
    print_json({{"output", typed.output},
                {"format", typed.format},
                {"modules", report.modules},
                {"bytes_in", report.bytes_in},
                {"bytes_out", report.bytes_out},
                {"seconds", report.seconds},
                {"warnings", report.warnings}});
    return kDone;
  }
  print("wrote " + typed.output + " (" + typed.format + "): " + std::to_string(report.modules) +
        " linear layers, " + format_bytes(report.bytes_in) + " -> " +
        format_bytes(report.bytes_out) + " in " + format_seconds(report.seconds));
  print("verified: every code, parameter and untouched tensor reads back as meant");
  return kDone;
}

}  // namespace

void declare_export(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<ExportArguments>();
  command.add_option("MODEL", typed->model, "quantized model folder")->required();
  command.add_option("-f,--format", typed->format, "see 'nibble list formats'")->required();
  command.add_option("-o,--output", typed->output, "folder to write; gguf: file")->required();
  command.add_option("--dtype", typed->dtype, "f16, bf16, f32: type of everything written dense");
  command.add_option("--shard-size", typed->shard_size, "limit of one file (default: 5G)");
  command.add_flag("--force", typed->force, "replace an existing output");
  line.run = [typed, &line] { return run(*typed, line); };
}

}  // namespace nibble
