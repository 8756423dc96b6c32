// The functions of cublas.h, device_array.h, device_linear.h and timing.h in a build without CUDA.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/timing.h"
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

struct Cublas::State {};

Cublas::Cublas() { refuse(); }
Cublas::Cublas(Cublas&&) noexcept = default;
Cublas& Cublas::operator=(Cublas&&) noexcept = default;
Cublas::~Cublas() = default;
int Cublas::algorithms(const CublasProduct& /*product*/) { refuse(); }
void Cublas::multiply(const CublasProduct& /*product*/, void* /*stream*/, int /*algorithm*/) {
  refuse();
}

Cublas& DenseWorkspace::cublas() { refuse(); }
void* DenseWorkspace::slab(int64_t /*bytes*/) { refuse(); }

struct DeviceLinear::Memory {};

DeviceLinear::DeviceLinear(const FragmentLinear& /*layer*/,
                           std::shared_ptr<DenseWorkspace> /*workspace*/) {
  refuse();
}
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

DeviceDescription describe_device() { refuse(); }

struct TimedGraph::State {};

TimedGraph::TimedGraph(int /*count*/, const std::function<void(int, void*)>& /*work*/) { refuse(); }
TimedGraph::TimedGraph(TimedGraph&&) noexcept = default;
TimedGraph& TimedGraph::operator=(TimedGraph&&) noexcept = default;
TimedGraph::~TimedGraph() = default;
double TimedGraph::microseconds() { refuse(); }

void finish_device() { refuse(); }
int64_t read_sums_bytes() { refuse(); }
void read_memory(const DeviceArray& /*memory*/, const DeviceArray& /*sums*/, void* /*stream*/) {
  refuse();
}

}  // namespace nibble
