// bench_kernels: every kernel of quantized layers against float64, with its speed beside that of
// dense products, on the CPU and, where there is one, the GPU. Cases: kernels/bench/bench_case.h.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/bench/bench_case.h"
#include "kernels/cuda/timing.h"
#include "src/pipeline/progress.h"

namespace nibble {

struct BenchOptions {
  enum class Where { kAuto, kCpu, kCuda };  // kAuto: the GPU too if there is one

  Where where = Where::kAuto;
  bool check = false;           // shapes, groups and ragged edges beside what is timed
  bool timing = true;           // false: errors alone, and not of the large products to be timed
  std::filesystem::path model;  // also its quantized layers; empty: none
};

struct BenchReport {
  std::optional<Roofs> cpu;  // null: not run there, or nothing was timed
  std::optional<Roofs> gpu;
  std::optional<DeviceDescription> device;  // the GPU
  std::string gpu_refusal;                  // why there was none
  std::vector<BenchResult> results;

  struct Skipped {
    std::string layer, device, reason;
  };
  std::vector<Skipped> skipped;  // layers that no kernel takes

  bool passed() const;
};

// Throws Error when the GPU is asked for and missing, when nothing is asked for, and for a model
// without quantized layers.
BenchReport bench_kernels(const BenchOptions& options, const Progress& progress);

}  // namespace nibble
