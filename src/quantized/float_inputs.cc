#include "src/quantized/float_inputs.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/quantized/float_schemes.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Scale of the values of a token that share one; `input_scale` as stored.
float scale_of(float largest, const ActivationScheme& scheme, float input_scale) {
  if (scheme.bits == 8) return scheme.dynamic ? largest / kLargestE4m3 : input_scale;
  if (scheme.dynamic) return f8_to_float(mxfp4_exponent(largest), Dtype::kF8E8M0);
  const float global = scheme.divides ? input_scale : 1.F / input_scale;
  float local = round_to(std::min(global * (largest / kLargestE2m1), kLargestE4m3), Dtype::kF8E4M3);
  if (local == 0.F) local = kZeroLocal;
  return scheme.divides ? local / input_scale : local * input_scale;
}

void round_values(std::span<float> values, const ActivationScheme& scheme, float scale,
                  std::span<std::byte> codes) {
  if (scale == 0.F) {
    std::ranges::fill(values, 0.F);
    return;
  }
  for (float& value : values) value /= scale;
  if (scheme.bits == 8) {
    from_float(values, Dtype::kF8E4M3, codes);
    to_float({Dtype::kF8E4M3, {std::ssize(values)}, codes, Device::kCpu}, values);
  } else {
    for (float& value : values) value = e2m1_grid().table[e2m1_code(value)];
  }
  for (float& value : values) value *= scale;
}

}  // namespace

Matrix rounded_inputs(ConstMatrixRef x, const ActivationScheme& scheme, float input_scale) {
  Matrix rounded = x;
  const int64_t columns = scheme.columns == kAll ? x.cols() : scheme.columns;
  const bool of_all = scheme.dynamic && !scheme.per_token;
  const float shared = of_all && x.size() > 0 ? x.cwiseAbs().maxCoeff() : 0.F;
#pragma omp parallel if (omp_in_parallel() == 0)
  {
    std::vector<std::byte> codes(static_cast<size_t>(columns));
#pragma omp for schedule(static)
    for (int64_t t = 0; t < rounded.rows(); ++t) {
      for (int64_t k = 0; k < x.cols(); k += columns) {
        const auto count = static_cast<size_t>(std::min(columns, x.cols() - k));
        const std::span<float> values(&rounded(t, k), count);
        float largest = shared;
        for (const float value : values) largest = std::max(largest, std::fabs(value));
        round_values(values, scheme, scale_of(largest, scheme, input_scale),
                     std::span(codes).first(count));
      }
    }
  }
  return rounded;
}

float float_input_scale(const ActivationScheme& scheme, float largest) {
  if (largest == 0.F) return 1.F;
  if (scheme.bits == 8) return largest / kLargestE4m3;
  const float range = kLargestE4m3 * kLargestE2m1;
  return scheme.divides ? range * (1.F / largest) : largest / range;
}

}  // namespace nibble
