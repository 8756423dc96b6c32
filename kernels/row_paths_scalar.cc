// Plain loops: the specification of the other paths.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/row_paths.h"

namespace nibble {
namespace {

void multiply_tile(const PanelTile& tile) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    const float* a = tile.a + row * tile.a_stride;
    float* c = tile.c + row * tile.c_stride;
    if (!tile.accumulate) std::fill(c, c + kPanelWidth, 0.f);
    for (int64_t k = 0; k < tile.depth; ++k) {
      for (int64_t n = 0; n < kPanelWidth; ++n) c[n] += a[k] * tile.b[k * kPanelWidth + n];
    }
  }
}

float sum(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += x[i];
  return static_cast<float>(total);
}

float sum_squares(const float* x, int64_t n, float center) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double difference = static_cast<double>(x[i]) - center;
    total += difference * difference;
  }
  return static_cast<float>(total);
}

void normalize(const float* x, int64_t n, float center, float scale, const float* weight,
               const float* bias, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = (x[i] - center) * scale * weight[i] + (bias == nullptr ? 0.f : bias[i]);
  }
}

void silu(const float* x, const float* factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = x[i] / (1 + std::exp(-x[i])) * (factor == nullptr ? 1.f : factor[i]);
  }
}

void gelu_tanh(const float* x, const float* factor, int64_t n, float* y) {
  constexpr float kRoot = 0.797884560802865f;  // sqrt(2/pi)
  for (int64_t i = 0; i < n; ++i) {
    const float u = kRoot * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
    y[i] = x[i] / (1 + std::exp(-2 * u)) * (factor == nullptr ? 1.f : factor[i]);
  }
}

void rotate(float* x, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cosine[i] - b * sine[i];
    x[half + i] = b * cosine[i] + a * sine[i];
  }
}

float max(const float* x, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, x[i]);
  return largest;
}

float exp(float* x, int64_t n, float shift) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - shift);
    total += x[i];
  }
  return static_cast<float>(total);
}

float exp_sum(const float* x, int64_t n, float shift) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(x[i] - shift);
  return static_cast<float>(total);
}

void scale(const float* x, int64_t n, float factor, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

void add(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void add_scaled(const float* x, int64_t n, float factor, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

float dot(const float* x, const float* y, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]) * y[i];
  return static_cast<float>(total);
}

}  // namespace

const RowPath kScalarRows = {"scalar", multiply_tile, sum,    sum_squares, normalize,
                             silu,     gelu_tanh,     rotate, max,         exp,
                             exp_sum,  scale,         add,    add_scaled,  dot};

}  // namespace nibble
