// What `nibble bench kernels` runs and what it finds: the list of products, which is data and the
// same everywhere, and a row of results. How they are run: cpu_bench.h, device_bench.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/bench/linear_reference.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"

namespace nibble {

// One product with a quantized layer.
struct BenchCase {
  std::string layer = "random";  // or a module's name
  Scheme scheme;
  Dtype type = Dtype::kF16;  // of x and y; F32 on the CPU
  int64_t M = 1, N = 0, K = 0;
  bool bias = false;
  bool timed = false;
};

// The speed of this project's goals, and, with `check`, every kind of weights with every type of
// activations at shapes that are ragged in each dimension, on both sides of each border between two
// kernels.
std::vector<BenchCase> cpu_cases(bool check);
std::vector<BenchCase> device_cases(bool check);
// Of a layer of a checkpoint: one token, some, and more than a tile; many on a device.
std::vector<BenchCase> layer_cases(const std::string& layer, const Scheme& scheme, int64_t N,
                                   int64_t K, bool on_device);

// What the machine reaches in the same run.
struct Roofs {
  double bytes_per_second = 0;               // reading memory
  double operations_per_second = 0;          // a large dense product in F16 (CPU: F32)
  double integer_operations_per_second = 0;  // the same of 8-bit integers; 0: not measured
};

struct Timing {
  double microseconds = 0;        // median, weights not in a cache
  double dense_microseconds = 0;  // cuBLAS in F16 (CPU: our product in F32), the same way
  double bytes = 0;               // that must be read and written
  double operations = 0;          // 2 M N K
  double share_of_roof = 0;       // of the time: what the slower of both takes at the roof
};
double share_of_roof(const Timing& timing, const Roofs& roofs, bool integers);

struct BenchResult {
  BenchCase product;
  std::string device;  // "cpu", "cuda"
  std::string kernel;  // "few_tokens", "dequant_matmul avx512"
  Judgement judgement;
  std::optional<Timing> timing;
};

// Columns of a group: K for whole rows.
int64_t group_columns(const Scheme& scheme, int64_t K);
double median(std::vector<double> values);

}  // namespace nibble
