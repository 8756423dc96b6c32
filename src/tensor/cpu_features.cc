#include "src/tensor/cpu_features.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "src/tensor/error.h"

namespace nibble {
namespace {

CpuFeatures detect() {
  CpuFeatures found;
  __builtin_cpu_init();
  found.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("f16c");
  found.avx512 = found.avx2 && __builtin_cpu_supports("avx512f") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512dq");
  found.avx512_vbmi = found.avx512 && __builtin_cpu_supports("avx512vbmi");
  found.avx512_vnni = found.avx512 && __builtin_cpu_supports("avx512vnni");
  found.avx512_bf16 = found.avx512 && __builtin_cpu_supports("avx512bf16");

  const char* limit = std::getenv("NIBBLE_CPU");
  if (limit == nullptr || std::string_view(limit).empty()) return found;
  const std::string_view name = limit;
  if (name == "scalar") return {};
  if (name == "avx2") return {.avx2 = found.avx2};
  if (name == "avx512") return found;
  throw Error("NIBBLE_CPU", "'" + std::string(name) + "' is none of scalar, avx2, avx512");
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace nibble
