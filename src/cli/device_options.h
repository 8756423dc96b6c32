// Options of where a forward pass runs, the same for every command that has the choice.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "src/tensor/tensor.h"

namespace nibble {

// As typed.
struct DeviceArguments {
  std::string device = "cpu";
  std::string max_vram;
};

struct ChosenDevice {
  Device device = Device::kCpu;
  int64_t max_vram = 0;  // bytes of a GPU's memory; 0: nearly all that is free
};

void declare_device(CLI::App& command, DeviceArguments& typed);
// Throws Error for a device that is not there, and for a limit of a GPU where none is used.
ChosenDevice choose_device(const DeviceArguments& typed);

}  // namespace nibble
