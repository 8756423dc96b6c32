// nibble calibrate MODEL -d FILE -o STATS
#include <algorithm>
#include <memory>
#include <string>

#include "calibration/lint.h"
#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/cli/arguments.h"
#include "src/cli/calibration_options.h"
#include "src/cli/command.h"
#include "src/cli/device_options.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/calibrate.h"
#include "src/pipeline/device_name.h"
#include "src/pipeline/saved_statistics.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// As typed.
struct CalibrateArguments {
  std::string model;
  CalibrateOptions options;
  std::string ids_dtype = "u16";
  DeviceArguments device;
};

Json to_json(const CalibrateReport& report, const CalibrateOptions& options) {
  Json json;
  json["output"] = options.output.string();
  json["device"] = device_name(options.device);
  json["origin"] = to_json(report.origin);
  json["tokens"] = report.tokens;
  json["bytes_out"] = report.bytes_out;
  json["seconds"] = report.seconds;
  json["peak_ram_bytes"] = report.peak_ram_bytes;
  json["groups"] = Json::array();
  for (const CalibrateReport::Group& group : report.groups) {
    json["groups"].push_back({{"block", group.block},
                              {"group", group.group},
                              {"inputs", group.K},
                              {"dead", group.dead},
                              {"rank_poor", group.rank_poor}});
  }
  json["calibration_data"] = describe(report.lint);
  json["warnings"] = report.warnings;
  return json;
}

void print_report(const CalibrateReport& report, const std::string& output) {
  print("wrote " + output + ": " + format_bytes(report.bytes_out) + ", " +
        std::to_string(report.groups.size()) + " input groups, " +
        std::to_string(report.origin.windows) + " windows of " +
        std::to_string(report.origin.seq_len) + " tokens, " +
        std::to_string(report.origin.held_out) + " of them held out");
  print(format_seconds(report.seconds) + ", peak memory " + format_bytes(report.peak_ram_bytes));
  const auto poor = std::count_if(report.groups.begin(), report.groups.end(),
                                  [](const auto& group) { return group.rank_poor; });
  if (poor > 0) {
    print(std::to_string(poor) +
          " groups have fewer tokens than inputs: their Hessians are rank-poor, more windows help");
  }
  for (const CalibrateReport::Group& group : report.groups) {
    if (group.dead == 0) continue;
    print("block " + std::to_string(group.block) + ", " + group.group + ": " +
          std::to_string(group.dead) + " of " + std::to_string(group.K) +
          " inputs are always zero");
  }
}

int run(const CalibrateArguments& typed, const CommandLine& line) {
  CalibrateOptions options = typed.options;
  options.calibration.dataset_options.ids_dtype =
      parse_integer_type(typed.ids_dtype, "--ids-dtype");
  const auto [device, max_vram] = choose_device(typed.device);
  options.device = device;
  options.max_vram = max_vram;
  if (device == Device::kCuda && options.histograms) {
    throw Error("--histograms", "are not computed on a GPU", "add --device cpu");
  }
  const auto checkpoint = std::make_shared<const Checkpoint>(open_checkpoint(typed.model));
  const CalibrateReport report = calibrate(checkpoint, options, make_progress(line));
  for (const std::string& fact : describe(report.lint)) {
    if (!line.quiet) print_message("calibration: " + fact);
  }
  for (const std::string& warning : report.warnings) print_message("warning: " + warning);
  if (line.json) {
    print_json(to_json(report, options));
  } else {
    print_report(report, options.output.string());
  }
  return kDone;
}

}  // namespace

void declare_calibrate(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<CalibrateArguments>();
  CalibrateOptions& options = typed->options;
  command.add_option("MODEL", typed->model, "model folder")->required();
  command.add_option("-o,--output", options.output, "file to write (.safetensors)")->required();
  declare_windows(command, options.calibration, typed->ids_dtype);
  command.get_option("--dataset")->required();
  command.add_option("--overlap", options.overlap,
                     "evaluation data: say how much of it calibration has seen");
  command.add_flag("--hold-out", options.hold_out,
                   "keep every 8th window apart, for the guard of quantize");
  command.add_flag("--histograms", options.histograms,
                   "keep histograms, for --activation-range of quantize");
  declare_device(command, typed->device);
  command.add_flag("--force", options.force, "replace an existing file");
  line.run = [typed, &line] { return run(*typed, line); };
}

}  // namespace nibble
