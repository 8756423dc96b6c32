// Which instruction-set paths may run here. Kernels ask this, never the compiler's target.
#pragma once

namespace nibble {

// Each flag includes the operating system's support for the registers it needs.
struct CpuFeatures {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, VL, DQ
  bool avx512_vbmi = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
};

// Of this machine, restricted by the environment variable NIBBLE_CPU (scalar, avx2, avx512) when it
// is set: lower paths can be tested, never higher ones forced.
const CpuFeatures& cpu_features();

}  // namespace nibble
