#include "quantizers/solvers/gptq_lanes.h"

#include <array>
#include <span>

#include "src/tensor/cpu_features.h"

namespace nibble {
namespace {

constexpr std::array<const LanePath*, 3> kPaths = {&kScalarLanes, &kAvx2Lanes, &kAvx512Lanes};

}  // namespace

std::span<const LanePath* const> lane_paths() {
  const std::span<const LanePath* const> all = kPaths;
  if (cpu_features().avx512) return all;
  return all.first(cpu_features().avx2 ? 2 : 1);
}

}  // namespace nibble
