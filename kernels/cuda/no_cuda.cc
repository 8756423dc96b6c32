// The functions of device_array.h and device_linear.h in a build without CUDA.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

[[noreturn]] void refuse() { throw Error("", cuda_refusal(), "build with -DNIBBLE_CUDA=ON"); }

}  // namespace

std::string cuda_refusal() { return "this program was built without CUDA"; }
DeviceLimits device_limits() { refuse(); }

DeviceArray::DeviceArray(size_t /*bytes*/) { refuse(); }
DeviceArray::DeviceArray(std::span<const std::byte> /*bytes*/) { refuse(); }
DeviceArray::~DeviceArray() {}
void DeviceArray::clear() {}
void DeviceArray::read(std::span<std::byte> /*out*/) const {}

struct DeviceLinear::Memory {};

DeviceLinear::DeviceLinear(const FragmentLinear& /*layer*/) { refuse(); }
DeviceLinear::DeviceLinear(DeviceLinear&&) noexcept = default;
DeviceLinear& DeviceLinear::operator=(DeviceLinear&&) noexcept = default;
DeviceLinear::~DeviceLinear() = default;

void DeviceLinear::multiply(Dtype /*type*/, const void* /*x*/, int64_t /*M*/, int64_t /*x_stride*/,
                            const void* /*bias*/, void* /*y*/, void* /*stream*/) {
  refuse();
}
void DeviceLinear::dequantize(Dtype /*type*/, void* /*out*/, int64_t /*out_stride*/,
                              void* /*stream*/) const {
  refuse();
}
LinearPlan DeviceLinear::plan(int64_t /*M*/) const { refuse(); }

}  // namespace nibble
