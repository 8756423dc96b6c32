// Where a forward pass runs, by the name that the command line has for it.
#pragma once

#include <string>
#include <string_view>

#include "src/tensor/tensor.h"

namespace nibble {

std::string_view device_name(Device device);  // "cpu", "cuda"
// Also "auto": a GPU if there is one that the kernels run on, else the CPU. Throws Error for other
// names, and for "cuda" when there is none: which is missing, the GPU or CUDA in this build.
Device device_from_name(const std::string& name);

}  // namespace nibble
