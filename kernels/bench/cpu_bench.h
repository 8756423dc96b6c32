// Runs products of quantized layers on the CPU, by every path that there is here: int8_matmul for
// 8-bit activations, dequant_matmul for the rest.
#pragma once

#include <string>
#include <vector>

#include "kernels/bench/bench_case.h"
#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Empty if there is a kernel for the layer; else why it would be expanded.
std::string cpu_refusal(const QuantizedLinear& q);

// Knows what the machine reaches. Not of 8-bit integers: shares of their roof are of memory's
// alone.
class CpuBench {
 public:
  // Measures it, if anything is to be timed.
  explicit CpuBench(bool times);

  const Roofs& roofs() const { return roofs_; }
  // One result for each path; only the fastest is timed.
  std::vector<BenchResult> run(const BenchCase& product, const QuantizedLinear& q) const;

 private:
  Roofs roofs_;
};

}  // namespace nibble
