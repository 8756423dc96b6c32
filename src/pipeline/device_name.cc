#include "src/pipeline/device_name.h"

#include <string>
#include <string_view>

#include "kernels/cuda/device_linear.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {

std::string_view device_name(Device device) { return device == Device::kCuda ? "cuda" : "cpu"; }

Device device_from_name(const std::string& name) {
  if (name == "cpu") return Device::kCpu;
  if (name != "cuda" && name != "auto") {
    const std::string nearest = nearest_name(name, {"auto", "cpu", "cuda"});
    throw Error("--device", "unknown device '" + name + "', known are auto, cpu, cuda",
                nearest.empty() ? "" : "did you mean '" + nearest + "'?");
  }
  const std::string refusal = cuda_refusal();
  if (refusal.empty()) return Device::kCuda;
  if (name == "auto") return Device::kCpu;
  throw Error("--device", "cuda: " + refusal, "--device cpu");
}

}  // namespace nibble
