#include "src/cli/device_options.h"

#include <CLI/CLI.hpp>

#include "src/cli/arguments.h"
#include "src/pipeline/device_name.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {

void declare_device(CLI::App& command, DeviceArguments& typed) {
  command.add_option("--device", typed.device, "auto, cpu or cuda")->capture_default_str();
  command.add_option("--max-vram", typed.max_vram,
                     "GPU memory to use, such as 20G (default: nearly all that is free)");
}

ChosenDevice choose_device(const DeviceArguments& typed) {
  ChosenDevice chosen{.device = device_from_name(typed.device)};
  if (typed.max_vram.empty()) return chosen;
  chosen.max_vram = parse_size(typed.max_vram, "--max-vram");
  if (chosen.device == Device::kCpu) {
    throw Error("--max-vram", "is of a GPU, and none is used", "add --device cuda");
  }
  return chosen;
}

}  // namespace nibble
