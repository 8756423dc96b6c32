#include "src/quantized/float_schemes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/finite_weights.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr float kNvfp4Range = kLargestE4m3 * kLargestE2m1;  // 2688
constexpr float kZeroLocalOfModelopt = 1.F;

// Largest magnitude of every block, [blocks].
std::vector<float> block_largest(ConstMatrixRef W, const Blocking& blocking) {
  std::vector<float> largest(static_cast<size_t>(block_count(blocking, W.rows(), W.cols())));
  const int64_t height = blocking.rows == kAll ? W.rows() : blocking.rows;
  const int64_t bands = (W.rows() + height - 1) / height;
#pragma omp parallel for schedule(static) if (W.size() > kParallelWeights)
  for (int64_t band = 0; band < bands; ++band) {
    std::vector<Run> runs;
    for (int64_t n = band * height; n < std::min(W.rows(), (band + 1) * height); ++n) {
      list_runs(blocking, {}, W.cols(), n, runs);
      for (const Run& run : runs) {
        float& all = largest[static_cast<size_t>(run.block)];
        const auto part = W.row(n).segment(run.first, run.end - run.first);
        all = std::max(all, part.cwiseAbs().maxCoeff());
      }
    }
  }
  return largest;
}

float epsilon(Dtype type) {
  const int mantissa = type == Dtype::kF16 ? 10 : type == Dtype::kBF16 ? 7 : 23;
  return std::ldexp(1.F, -mantissa);
}

void fit_fp8(std::span<const float> largest, RoundedLinear& rounded) {
  QuantizedLinear& q = rounded.q;
  const Dtype type = q.scheme.scale->type;
  std::vector<float> scales;
  for (const float value : largest) {
    float scale = value == 0.F ? epsilon(type) : value / kLargestE4m3;
    if (round_to(scale, type) == 0.F) {
      scale = smallest_positive(type);
      ++rounded.rounding.raised_to_smallest;
    }
    scales.push_back(scale);
  }
  q.scale.values = Tensor::allocate(type, {std::ssize(scales)});
  from_float(scales, type, q.scale.values.mutable_bytes());
}

// Each with the operations of the program that stores it so.
void fit_nvfp4(std::span<const float> largest, float of_tensor, QuantizedLinear& q) {
  const bool divides = q.scheme.scale->second->divides;
  of_tensor = std::max(of_tensor, std::numeric_limits<float>::min());
  float second = divides ? kNvfp4Range * (1.F / of_tensor) : of_tensor / kNvfp4Range;
  if (std::isinf(second) || second == 0.F) second = 1.F;
  const float of_zeros = divides ? kZeroLocal : kZeroLocalOfModelopt;
  std::vector<float> local;
  for (const float value : largest) {
    float wanted = divides ? second * (value / kLargestE2m1) : value / (kLargestE2m1 * second);
    wanted = std::min(wanted, kLargestE4m3);
    local.push_back(round_to(wanted, Dtype::kF8E4M3) == 0.F ? of_zeros : wanted);
  }
  q.scale.values = Tensor::allocate(Dtype::kF8E4M3, {std::ssize(local)});
  from_float(local, Dtype::kF8E4M3, q.scale.values.mutable_bytes());
  q.scale.second = Tensor::copy_of(Dtype::kF32, {1}, std::span<const float>(&second, 1));
}

void fit_mxfp4(std::span<const float> largest, QuantizedLinear& q) {
  q.scale.values = Tensor::allocate(Dtype::kF8E8M0, {std::ssize(largest)});
  std::ranges::transform(largest, q.scale.values.mutable_bytes().begin(),
                         [](float value) { return static_cast<std::byte>(mxfp4_exponent(value)); });
}

void round_codes(ConstMatrixRef W, QuantizedLinear& q) {
  const std::vector<float> scales = float_parameters(q).scale;
  const bool is_e4m3 = q.scheme.grid.bits == 8;
  q.codes = Tensor::allocate(Dtype::kU8, {q.N, q.K});
  const std::span<uint8_t> codes = q.codes.mutable_values<uint8_t>();
#pragma omp parallel if (W.size() > kParallelWeights)
  {
    std::vector<Run> runs;
    std::vector<float> scaled(static_cast<size_t>(q.K));
#pragma omp for schedule(static)
    for (int64_t n = 0; n < q.N; ++n) {
      list_runs(q.scheme.blocking, {}, q.K, n, runs);
      for (const Run& run : runs) {
        const float scale = scales[static_cast<size_t>(run.block)];
        for (int64_t k = run.first; k < run.end; ++k) {
          scaled[static_cast<size_t>(k)] = W(n, k) / scale;
        }
      }
      const auto row = codes.subspan(static_cast<size_t>(n * q.K), static_cast<size_t>(q.K));
      if (is_e4m3) {
        from_float(scaled, Dtype::kF8E4M3, std::as_writable_bytes(row));
      } else {
        std::ranges::transform(scaled, row.begin(), e2m1_code);
      }
    }
  }
}

Grid make_e4m3() {
  Grid grid = {.kind = Grid::Kind::kTable, .bits = 8, .name = "e4m3"};
  for (int code = 0; code < 256; ++code) {
    grid.table.push_back(f8_to_float(static_cast<uint8_t>(code), Dtype::kF8E4M3));
  }
  return grid;
}

}  // namespace

const Grid& e4m3_grid() {
  static const Grid grid = make_e4m3();
  return grid;
}

const Grid& e2m1_grid() {
  static const Grid grid = {.kind = Grid::Kind::kTable,
                            .bits = 4,
                            .name = "e2m1",
                            .table = {0.F, .5F, 1.F, 1.5F, 2.F, 3.F, 4.F, 6.F, -0.F, -.5F, -1.F,
                                      -1.5F, -2.F, -3.F, -4.F, -6.F}};
  return grid;
}

Scheme fp8_scheme(const Blocking& blocking, Dtype scale) {
  Scheme scheme;
  scheme.grid = e4m3_grid();
  scheme.blocking = blocking;
  scheme.scale = stored_as(scale, dtype_bits(scale));
  return scheme;
}

Scheme nvfp4_scheme(bool divides) {
  Scheme scheme;
  scheme.grid = e2m1_grid();
  scheme.blocking.columns = kNvfp4Group;
  scheme.scale = stored_as(Dtype::kF8E4M3, dtype_bits(Dtype::kF8E4M3));
  scheme.scale->second = SecondLevel{.type = Dtype::kF32, .block = kAll, .divides = divides};
  return scheme;
}

Scheme with_nvfp4_stored(Scheme scheme, bool divides) {
  if (!is_nvfp4(scheme)) return scheme;
  scheme.scale->second->divides = divides;
  if (scheme.activations) scheme.activations->divides = divides;
  return scheme;
}

Scheme mxfp4_scheme() {
  Scheme scheme;
  scheme.grid = e2m1_grid();
  scheme.blocking.columns = kMxfp4Group;
  scheme.scale = stored_as(Dtype::kF8E8M0, dtype_bits(Dtype::kF8E8M0));
  return scheme;
}

bool is_fp8(const Scheme& scheme) {
  if (!scheme.scale || !is_float(scheme.scale->type) || scheme.blocking.flattened) return false;
  Scheme weights = fp8_scheme(scheme.blocking, scheme.scale->type);
  weights.activations = scheme.activations;
  return scheme == weights;
}

bool is_nvfp4(const Scheme& scheme) {
  Scheme weights =
      nvfp4_scheme(scheme.scale && scheme.scale->second && scheme.scale->second->divides);
  weights.activations = scheme.activations;
  return scheme == weights;
}

bool is_mxfp4(const Scheme& scheme) {
  Scheme weights = mxfp4_scheme();
  weights.activations = scheme.activations;
  return scheme == weights;
}

RoundedLinear quantize_to_floats(ConstMatrixRef W, const Scheme& scheme, float shared_largest,
                                 const std::string& where) {
  if (!is_fp8(scheme) && !is_nvfp4(scheme) && !is_mxfp4(scheme)) {
    throw Error(where, "round to nearest has no rule for " + describe(scheme));
  }
  check_finite(W, where);
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q;
  q.scheme = scheme;
  q.N = W.rows();
  q.K = W.cols();
  const std::vector<float> largest = block_largest(W, scheme.blocking);
  if (is_fp8(scheme)) {
    fit_fp8(largest, rounded);
  } else if (is_nvfp4(scheme)) {
    fit_nvfp4(largest, shared_largest > 0.F ? shared_largest : std::ranges::max(largest), q);
  } else {
    fit_mxfp4(largest, q);
  }
  const std::vector<float> scales = float_parameters(q).scale;
  const auto bad = std::ranges::find_if_not(scales, [](float s) { return std::isfinite(s); });
  if (bad != scales.end()) {
    throw Error(where,
                "the scale of " + block_place(scheme.blocking, q.N, q.K, bad - scales.begin()) +
                    " is infinite in " + std::string(dtype_name(scheme.scale->type)),
                "store scales as BF16 or F32");
  }
  round_codes(W, q);
  return rounded;
}

uint8_t e2m1_code(float x) {
  const float magnitude = std::fabs(x);
  // Where a level gives way to the next: a middle belongs to the even of the two codes.
  int code = magnitude > 0.25F ? 1 : 0;
  code += magnitude >= 0.75F ? 1 : 0;
  code += magnitude > 1.25F ? 1 : 0;
  code += magnitude >= 1.75F ? 1 : 0;
  code += magnitude > 2.5F ? 1 : 0;
  code += magnitude >= 3.5F ? 1 : 0;
  code += magnitude > 5.F ? 1 : 0;
  return static_cast<uint8_t>(code | (x < 0.F ? 8 : 0));
}

uint8_t mxfp4_exponent(float largest) {
  // A quarter of the mantissa's range added: from 1.75 on the exponent is the next.
  const uint32_t bits = std::bit_cast<uint32_t>(largest) + (1U << 21);
  return static_cast<uint8_t>(std::max(static_cast<int>(bits >> 23) - 2, 0));
}

}  // namespace nibble
