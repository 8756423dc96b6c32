#include "src/quantized/ggml_fit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/quantized/ggml_affine.h"
#include "src/quantized/ggml_schemes.h"
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

constexpr int kBlock = 32;
constexpr float kNothing = 1e-15F;  // weights below are taken for zero

using Weights = std::span<const float>;

// To nearest even, for magnitudes below 2^22.
int nearest(float x) {
  return std::bit_cast<int32_t>(x + kRoundingShift) - std::bit_cast<int32_t>(kRoundingShift);
}

// The weight of largest magnitude, the first of several. Magnitudes compare as integers do, which
// vectorises.
float extreme(Weights x) {
  const auto magnitude = [](float value) { return std::bit_cast<int32_t>(value) & 0x7FFFFFFF; };
  int32_t largest = 0;
  for (const float value : x) largest = std::max(largest, magnitude(value));
  if (largest == 0) return 0.F;
  return *std::ranges::find(x, largest, magnitude);
}

float reciprocal(float x) { return x == 0.F ? 0.F : 1.F / x; }

float through_f16(float x) { return f16_to_float(float_to_f16(x)); }

// Sums that give the scale s = sum w x q / sum w q^2 of least error sum w (x - s q)^2, which is
// sum w x^2 - s sum w x q: the larger product, the better.
struct Fit {
  float xq = 0.F;
  float qq = 0.F;

  void add(float weight, float x, float q) {
    xq += weight * x * q;
    qq += weight * q * q;
  }
  float scale() const { return qq > 0.F ? xq / qq : 0.F; }
};

// ---- one scale for 32 weights -------------------------------------------------------------------

struct Plain {
  float scale = 0.F;
  float minimum = 0.F;
};

// Q4_0, Q5_0: the extreme becomes the level below which there is none above.
Plain fit_signed(Weights x, int bits, uint8_t* codes) {
  const int half = 1 << (bits - 1);
  const float d = extreme(x) / static_cast<float>(-half);
  const float inverse = reciprocal(d);
  const float offset = static_cast<float>(half) + 0.5F;
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] =
        static_cast<uint8_t>(std::min(2 * half - 1, static_cast<int>(x[i] * inverse + offset)));
  }
  return {.scale = d};
}

// Q4_1, Q5_1.
Plain fit_between(Weights x, int bits, uint8_t* codes) {
  const auto [low, high] = std::ranges::minmax(x);
  const int last = (1 << bits) - 1;
  const float d = (high - low) / static_cast<float>(last);
  const float inverse = reciprocal(d);
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] =
        static_cast<uint8_t>(std::min(last, static_cast<int>((x[i] - low) * inverse + 0.5F)));
  }
  return {.scale = d, .minimum = low};
}

// Q8_0, halves away from zero: what is cut off is exact.
Plain fit_bytes(Weights x, uint8_t* codes) {
  const float d = std::fabs(extreme(x)) / 127.F;
  const float inverse = reciprocal(d);
  for (size_t i = 0; i < x.size(); ++i) {
    const float scaled = x[i] * inverse;
    const int cut = static_cast<int>(scaled);
    const float rest = scaled - static_cast<float>(cut);
    codes[i] = static_cast<uint8_t>(cut + 128 + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0));
  }
  return {.scale = d};
}

// MXFP4: the power of two that puts the extreme between 4 and 8. Of two levels as near the smaller;
// codes from 8 are negative, and nothing becomes a negative zero.
Plain fit_e2m1(Weights x, uint8_t* codes) {
  constexpr std::array kBorders = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.F};
  const float largest = std::fabs(extreme(x));
  const int exponent = largest > 0.F ? static_cast<int>(std::floor(std::log2(largest))) - 2 : -127;
  const float d = std::ldexp(1.F, std::max(exponent, -127));
  for (size_t i = 0; i < x.size(); ++i) {
    int code = 0;
    for (const float border : kBorders) code += std::fabs(x[i]) > border * d ? 1 : 0;
    codes[i] = static_cast<uint8_t>(code + (x[i] < 0.F && code > 0 ? 8 : 0));
  }
  return {.scale = d};
}

// The nearest of ascending levels; of two as near the upper.
uint8_t nearest_level(const std::vector<float>& levels, float x) {
  if (x <= levels.front()) return 0;
  if (x >= levels.back()) return static_cast<uint8_t>(levels.size() - 1);
  const auto above = std::upper_bound(levels.begin(), levels.end(), x);
  const auto at = static_cast<uint8_t>(above - levels.begin());
  return x - *(above - 1) < *above - x ? static_cast<uint8_t>(at - 1) : at;
}

// IQ4: 15 scales around the one that puts the extreme on the first level, each mended by least
// squares with weights x^2.
float fit_levels(Weights x, const std::vector<float>& levels) {
  constexpr int kTries = 7;
  const float largest = extreme(x);
  if (std::fabs(largest) < kNothing) return 0.F;
  const auto fit_at = [&](float inverse) {
    Fit fit;
    for (const float value : x) {
      const float q = levels[nearest_level(levels, inverse * value)];
      const float weight = value * value;
      fit.xq += weight * q * value;
      fit.qq += weight * q * q;
    }
    return fit;
  };
  const Fit first = fit_at(1.F / (-largest / levels.front()));
  float scale = first.xq / first.qq;
  float best = scale * first.xq;
  for (int t = -kTries; t <= kTries; ++t) {
    const Fit fit = fit_at((static_cast<float>(t) + levels.front()) / largest);
    if (fit.qq > 0.F && fit.xq * fit.xq > best * fit.qq) {
      scale = fit.scale();
      best = scale * fit.xq;
    }
  }
  return scale;
}

void code_levels(Weights x, const std::vector<float>& levels, float scale, uint8_t* codes) {
  const float inverse = reciprocal(scale);
  for (size_t i = 0; i < x.size(); ++i) codes[i] = nearest_level(levels, inverse * x[i]);
}

// ---- groups of 256 weights, symmetric -----------------------------------------------------------

int clamped(float x, int half) { return std::clamp(nearest(x), -half, half - 1); }

// Q6_K: 19 scales around the one that puts the extreme on the lowest level, each mended by least
// squares with weights x^2.
float fit_searched(Weights x, int half, uint8_t* codes) {
  const float largest = extreme(x);
  std::fill_n(codes, x.size(), uint8_t{0});
  if (std::fabs(largest) < kNothing) return 0.F;
  const auto fit_at = [&](float inverse) {
    Fit fit;
    for (const float value : x) {
      fit.add(value * value, value, static_cast<float>(clamped(inverse * value, half)));
    }
    return fit;
  };
  const auto keep = [&](float inverse) {
    for (size_t i = 0; i < x.size(); ++i) {
      codes[i] = static_cast<uint8_t>(clamped(inverse * x[i], half) + half);
    }
  };
  const auto lowest = static_cast<float>(half);
  float inverse = -lowest / largest;
  const Fit first = fit_at(inverse);
  keep(inverse);
  float scale = first.scale();
  float best = scale * first.xq;
  for (int t = -9; t <= 9; ++t) {
    if (t == 0) continue;
    inverse = -(lowest + 0.1F * static_cast<float>(t)) / largest;
    const Fit fit = fit_at(inverse);
    if (fit.qq > 0.F && fit.xq * fit.xq > best * fit.qq) {
      keep(inverse);
      scale = fit.scale();
      best = scale * fit.xq;
    }
  }
  return scale;
}

// Q3_K: from the scale that puts the extreme on the lowest level, up to five rounds in which each
// code in turn takes the best value for the others', weights x^2.
float fit_by_turns(Weights x, int half, uint8_t* codes) {
  const float largest = extreme(x);
  std::fill_n(codes, x.size(), uint8_t{0});
  if (std::fabs(largest) < kNothing) return 0.F;
  std::array<int, kBlock> q{};
  Fit fit;
  for (size_t i = 0; i < x.size(); ++i) {
    q[i] = clamped(static_cast<float>(-half) / largest * x[i], half);
    fit.add(x[i] * x[i], x[i], static_cast<float>(q[i]));
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (size_t i = 0; i < x.size(); ++i) {
      const float weight = x[i] * x[i];
      const auto old = static_cast<float>(q[i]);
      Fit others = {fit.xq - weight * x[i] * old, fit.qq};
      if (others.xq <= 0.F) continue;
      others.qq = fit.qq - weight * old * old;
      const int better = clamped(x[i] * others.qq / others.xq, half);
      if (better == q[i]) continue;
      others.add(weight, x[i], static_cast<float>(better));
      if (others.qq > 0.F && others.xq * others.xq * fit.qq > fit.xq * fit.xq * others.qq) {
        q[i] = better;
        fit = others;
        changed = true;
      }
    }
    if (!changed) break;
  }
  for (size_t i = 0; i < x.size(); ++i) codes[i] = static_cast<uint8_t>(q[i] + half);
  return fit.scale();
}

// ---- whole layers -------------------------------------------------------------------------------

// Where the parameters of a layer go.
struct Output {
  uint8_t* codes = nullptr;    // [N, K]
  std::byte* scale = nullptr;  // as QuantizedLinear::scale.values and .second, and so on
  uint16_t* scale_second = nullptr;
  std::byte* minimum = nullptr;
  uint16_t* minimum_second = nullptr;
};

void store_half(std::byte* values, int64_t at, float value) {
  reinterpret_cast<uint16_t*>(values)[at] = float_to_f16(value);
}

void quantize_plain(std::string_view type, const Grid& grid, Weights x, int64_t b,
                    const Output& out) {
  uint8_t* codes = out.codes + b * kBlock;
  if (type == "mxfp4") {
    const float scale = fit_e2m1(x, codes).scale;
    out.scale[b] = std::byte{float_to_f8(scale, Dtype::kF8E8M0)};
    return;
  }
  Plain plain;
  if (type == "iq4_nl") {
    plain.scale = fit_levels(x, grid.table);
    code_levels(x, grid.table, plain.scale, codes);
  } else if (type == "q8_0") {
    plain = fit_bytes(x, codes);
  } else if (out.minimum != nullptr) {
    plain = fit_between(x, grid.bits, codes);
    store_half(out.minimum, b, plain.minimum);
  } else {
    plain = fit_signed(x, grid.bits, codes);
  }
  store_half(out.scale, b, plain.scale);
}

// Q3_K, Q6_K, IQ4_XS: the group scale of largest magnitude becomes the lowest integer.
void quantize_symmetric(std::string_view type, const Scheme& scheme, Weights x, int64_t b,
                        const Output& out) {
  const auto group = static_cast<size_t>(scheme.blocking.columns);
  const size_t groups = kSuperBlock / group;
  const Grid& grid = scheme.grid;
  const int half = -grid.lowest;
  const auto lowest = static_cast<float>(-(1 << (scheme.scale->bits - 1)));
  uint8_t* codes = out.codes + b * kSuperBlock;
  std::array<float, 16> scales{};
  for (size_t j = 0; j < groups; ++j) {
    const Weights part = x.subspan(j * group, group);
    uint8_t* part_codes = codes + j * group;
    scales[j] = type == "iq4_xs" ? fit_levels(part, grid.table)
                : type == "q3_k" ? fit_by_turns(part, half, part_codes)
                                 : fit_searched(part, half, part_codes);
  }
  const float largest = extreme(Weights(scales).first(groups));
  auto* stored = reinterpret_cast<int8_t*>(out.scale + b * static_cast<int64_t>(groups));
  if (std::fabs(largest) < kNothing) {
    // What an F16 of zero makes of the integers and codes does not matter; they are llama.cpp's.
    std::fill_n(stored, groups, type == "q3_k" ? int8_t{-32} : int8_t{0});
    if (type == "q6_k") std::fill_n(codes, kSuperBlock, uint8_t{0});
    if (type == "iq4_xs") code_levels(x, grid.table, 0.F, codes);
    out.scale_second[b] = type == "iq4_xs" ? 0x8000 : 0;
    return;
  }
  // IQ4_XS codes by the scale as it was before it became an F16.
  const bool exact = type == "iq4_xs";
  const float d = exact ? largest / lowest : 1.F / (lowest / largest);
  const float inverse = exact ? 1.F / d : lowest / largest;
  out.scale_second[b] = float_to_f16(d);
  const float read = exact ? d : through_f16(d);
  for (size_t j = 0; j < groups; ++j) {
    const Weights part = x.subspan(j * group, group);
    uint8_t* part_codes = codes + j * group;
    const int integer = std::clamp(nearest(inverse * scales[j]), static_cast<int>(lowest),
                                   static_cast<int>(-lowest) - 1);
    stored[j] = static_cast<int8_t>(integer);
    const float scale = read * static_cast<float>(integer);
    if (exact) {
      code_levels(part, grid.table, scale, part_codes);
    } else if (scale != 0.F) {
      for (size_t i = 0; i < group; ++i) {
        part_codes[i] = static_cast<uint8_t>(clamped(part[i] / scale, half) + half);
      }
    }
  }
}

AffineSearch search_of(std::string_view type) {
  if (type == "q2_k") {
    return {.last = 3, .first = -0.5F, .steps = 15, .absolute = true, .raised = false};
  }
  if (type == "q4_k") return {.last = 15, .first = -1.F, .steps = 20};
  return {.last = 31, .first = -0.5F, .steps = 15};
}

// Q2_K, Q4_K, Q5_K: the largest group scale and minimum become the highest integers.
template <size_t kGroups>
void quantize_affine(const AffineSearch& search, int parameter_bits, Weights x, int64_t b,
                     const Output& out) {
  constexpr size_t kWidth = kSuperBlock / kGroups;
  AffineBlock<kGroups> block;
  search_affine_groups(x.data(), search, block);
  uint8_t* codes = out.codes + b * kSuperBlock;
  Plain largest;
  for (size_t g = 0; g < kGroups; ++g) {
    const bool flat = block.high[g] == block.low[g];
    if (flat) block.scale[g] = 0.F;
    block.minimum[g] = -block.minimum[g];
    for (size_t i = 0; i < kWidth; ++i) {
      codes[g * kWidth + i] = flat ? uint8_t{0} : static_cast<uint8_t>(block.best[i][g]);
    }
    largest.scale = std::max(largest.scale, block.scale[g]);
    largest.minimum = std::max(largest.minimum, block.minimum[g]);
  }
  const auto top = static_cast<float>((1 << parameter_bits) - 1);
  out.scale_second[b] = float_to_f16(largest.scale / top);
  out.minimum_second[b] = float_to_f16(largest.minimum / top);
  const float d = f16_to_float(out.scale_second[b]);
  const float m = f16_to_float(out.minimum_second[b]);
  out.minimum_second[b] ^= 0x8000;  // the scheme adds what the type subtracts
  const auto stored = [top](float most, float value) {
    const float inverse = most > 0.F ? top / most : 0.F;
    return std::clamp(nearest(inverse * value), 0, static_cast<int>(top));
  };
  const size_t first = static_cast<size_t>(b) * kGroups;
  for (size_t g = 0; g < kGroups; ++g) {
    const int scale = stored(largest.scale, block.scale[g]);
    const int minimum = stored(largest.minimum, block.minimum[g]);
    out.scale[first + g] = static_cast<std::byte>(scale);
    out.minimum[first + g] = static_cast<std::byte>(minimum);
    const float group_scale = d * static_cast<float>(scale);
    if (group_scale == 0.F) continue;
    const float group_minimum = m * static_cast<float>(minimum);
    for (size_t i = g * kWidth; i < (g + 1) * kWidth; ++i) {
      const int code = nearest((x[i] + group_minimum) / group_scale);
      codes[i] = static_cast<uint8_t>(std::clamp(code, 0, search.last));
    }
  }
}

// A layer of the type with room for everything.
QuantizedLinear allocate(const Scheme& scheme, int64_t N, int64_t K) {
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = Tensor::allocate(Dtype::kU8, {N, K});
  const int64_t groups = group_count(scheme.blocking, K);
  for (const auto& [parameter, values] :
       {std::pair{&scheme.scale, &q.scale}, std::pair{&scheme.minimum, &q.minimum}}) {
    if (!*parameter) continue;
    values->values = Tensor::allocate((*parameter)->type, {N, groups});
    if ((*parameter)->second) {
      values->second = Tensor::allocate(Dtype::kF16, {N * groups / (*parameter)->second->block});
    }
  }
  return q;
}

void check_finite(ConstMatrixRef W, const std::string& where) {
  int64_t first = W.rows();
#pragma omp parallel for schedule(static) reduction(min : first)
  for (int64_t n = 0; n < W.rows(); ++n) {
    if (!W.row(n).allFinite()) first = std::min(first, n);
  }
  if (first == W.rows()) return;
  int64_t k = 0;
  while (std::isfinite(W(first, k))) ++k;
  throw Error(where,
              std::string(std::isnan(W(first, k)) ? "NaN" : "infinity") + " at row " +
                  std::to_string(first) + ", column " + std::to_string(k),
              "is the checkpoint damaged?");
}

template <typename T>
T* data_of(Tensor& tensor) {
  return tensor.empty() ? nullptr : reinterpret_cast<T*>(tensor.mutable_bytes().data());
}

}  // namespace

RoundedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type, const std::string& where) {
  if (W.cols() % type.block != 0) {
    throw Error(where, "rows of " + std::to_string(W.cols()) + " weights are no multiple of " +
                           std::string(type.name) + "'s blocks of " + std::to_string(type.block));
  }
  check_finite(W, where);
  const Scheme& scheme = type.scheme;
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q = allocate(scheme, W.rows(), W.cols());
  const Output out = {.codes = data_of<uint8_t>(q.codes),
                      .scale = data_of<std::byte>(q.scale.values),
                      .scale_second = data_of<uint16_t>(q.scale.second),
                      .minimum = data_of<std::byte>(q.minimum.values),
                      .minimum_second = data_of<uint16_t>(q.minimum.second)};
  const int64_t row_blocks = W.cols() / type.block;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    for (int64_t i = 0; i < row_blocks; ++i) {
      const Weights x(W.data() + n * W.outerStride() + i * type.block,
                      static_cast<size_t>(type.block));
      const int64_t b = n * row_blocks + i;
      if (type.block == kBlock) {
        quantize_plain(type.name, scheme.grid, x, b, out);
      } else if (scheme.minimum) {
        const AffineSearch search = search_of(type.name);
        if (scheme.blocking.columns == 16) {
          quantize_affine<16>(search, scheme.scale->bits, x, b, out);
        } else {
          quantize_affine<8>(search, scheme.scale->bits, x, b, out);
        }
      } else {
        quantize_symmetric(type.name, scheme, x, b, out);
      }
    }
  }
  check(q, where);
  rounded.weight_error = relative_error(W, q);
  return rounded;
}

}  // namespace nibble
