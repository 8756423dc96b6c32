#include "src/quantized/ggml_fit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "src/quantized/ggml_affine.h"
#include "src/quantized/ggml_groups.h"
#include "src/quantized/ggml_levels.h"
#include "src/quantized/ggml_plain.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/ggml_symmetric.h"
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

constexpr int64_t kBlock = 32;

using Weights = std::span<const float>;

// To nearest even, for magnitudes below 2^22.
int nearest(float x) {
  return std::bit_cast<int32_t>(x + kRoundingShift) - std::bit_cast<int32_t>(kRoundingShift);
}

int clamped(float x, int half) { return std::clamp(nearest(x), -half, half - 1); }

float through_f16(float x) { return f16_to_float(float_to_f16(x)); }

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

// ---- importance ---------------------------------------------------------------------------------

float mean_square(Weights x) {
  float sum = 0.F;
  for (const float value : x) sum += value * value;
  return sum / static_cast<float>(x.size());
}

// What errors count where there is importance: importance * sqrt(spread + x^2).
using Weighing = std::array<float, kSuperBlock>;

void weigh(Weights x, Weights importance, float spread, Weighing& weights) {
  for (size_t i = 0; i < x.size(); ++i) {
    weights[i] = importance[i] * std::sqrt(spread + x[i] * x[i]);
  }
}

void squares(Weights x, Weighing& weights) {
  for (size_t i = 0; i < x.size(); ++i) weights[i] = x[i] * x[i];
}

// Sums over the groups of a block of 256.
template <size_t kGroups>
void add_groups(const Weighing& weights, std::array<float, kGroups>& mass) {
  constexpr size_t kWidth = kSuperBlock / kGroups;
  for (size_t g = 0; g < kGroups; ++g) {
    mass[g] = 0.F;
    for (size_t i = 0; i < kWidth; ++i) mass[g] += weights[g * kWidth + i];
  }
}

// ---- one scale for 32 weights -------------------------------------------------------------------

// Block b.
void quantize_plain(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                    const Output& out) {
  uint8_t* codes = out.codes + b * kBlock;
  const Grid& grid = type.scheme.grid;
  if (type.name == "mxfp4") {
    out.scale[b] = std::byte{float_to_f8(fit_e2m1(x, codes).scale, Dtype::kF8E8M0)};
    return;
  }
  if (type.name == "iq4_nl") {
    Weighing weights;
    if (importance.empty()) {
      squares(x, weights);
    } else {
      weigh(x, importance, 2.F * mean_square(x), weights);
    }
    const float scale = fit_levels(x, Weights(weights).first(x.size()), grid.table);
    code_levels(x, grid.table, scale, codes);
    store_half(out.scale, b, scale);
    return;
  }
  const PlainFit fit = type.name == "q8_0"      ? fit_bytes(x, codes)
                       : out.minimum != nullptr ? fit_between(x, grid.bits, codes)
                                                : fit_signed(x, grid.bits, codes);
  store_half(out.scale, b, fit.scale);
  if (out.minimum != nullptr) store_half(out.minimum, b, fit.minimum);
}

// The search with importance: 37 ranges, finer than without.
AffineSearch fine_search(int last) {
  return {
      .last = last, .first = -0.9F, .step = 0.05F, .steps = 36, .weights = GroupWeights::kGiven};
}

// Q4_0, Q4_1, Q5_0, Q5_1 with importance: blocks b, b + 1, .. of up to 256 weights side by side.
void quantize_weighed(const GgmlScheme& type, Weights x, Weights importance, float spread,
                      int64_t b, const Output& out) {
  Weighing values{};
  Weighing weights{};
  std::ranges::copy(x, values.begin());
  weigh(x, importance, spread, weights);
  const Grid& grid = type.scheme.grid;
  const auto store = [&](const auto& block, size_t g, bool flat) {
    const int64_t at = b + static_cast<int64_t>(g);
    store_half(out.scale, at, flat ? 0.F : block.scale[g]);
    for (size_t i = 0; i < kBlock; ++i) {
      out.codes[at * kBlock + static_cast<int64_t>(i)] =
          flat ? uint8_t{0} : static_cast<uint8_t>(block.best[i][g]);
    }
  };
  const size_t blocks = x.size() / kBlock;
  if (out.minimum != nullptr) {
    AffineBlock<8, 32> block;
    search_affine_groups(values.data(), weights.data(), fine_search((1 << grid.bits) - 1), block);
    for (size_t g = 0; g < blocks; ++g) {
      store(block, g, block.high[g] == block.low[g]);
      store_half(out.minimum, b + static_cast<int64_t>(g), block.minimum[g]);
    }
  } else {
    GroupBlock<8, 32> block;
    search_symmetric_groups(values.data(), weights.data(),
                            {.half = -grid.lowest, .weights = GroupWeights::kGiven}, block);
    for (size_t g = 0; g < blocks; ++g) store(block, g, false);
  }
}

void quantize_plain_row(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                        const Output& out) {
  const bool searches = type.scheme.grid.kind == Grid::Kind::kInteger && type.name != "q8_0";
  const bool weighs = !importance.empty() && searches;
  const auto step = static_cast<size_t>(weighs ? kSuperBlock : kBlock);
  const float spread = weighs ? mean_square(x) : 0.F;
  for (size_t k = 0; k < x.size(); k += step, b += static_cast<int64_t>(step) / kBlock) {
    const size_t count = std::min(step, x.size() - k);
    const Weights part = importance.empty() ? importance : importance.subspan(k, count);
    if (weighs) {
      quantize_weighed(type, x.subspan(k, count), part, spread, b, out);
    } else {
      quantize_plain(type, x.subspan(k, count), part, b, out);
    }
  }
}

// ---- groups of 256 weights, symmetric -----------------------------------------------------------

// Of the 16 (IQ4_XS: 8) groups of a block.
struct SymmetricFit {
  std::array<float, 16> scales{};
  std::array<float, 16> mass{};  // sums of what the group's errors count
};

// Fills codes [256] too, but for IQ4_XS.
SymmetricFit fit_symmetric(const GgmlScheme& type, Weights x, Weights importance, uint8_t* codes) {
  const Scheme& scheme = type.scheme;
  const auto group = static_cast<size_t>(scheme.blocking.columns);
  SymmetricFit fit;
  Weighing weights;
  const GroupWeights rule = importance.empty() ? GroupWeights::kSquare : GroupWeights::kGiven;
  if (importance.empty()) {
    if (scheme.grid.kind == Grid::Kind::kTable) squares(x, weights);
  } else if (type.name == "q6_k") {
    std::ranges::copy(importance, weights.begin());
  } else {
    weigh(x, importance, 2.F * mean_square(x), weights);
  }
  if (scheme.grid.kind == Grid::Kind::kTable) {
    for (size_t j = 0; j < x.size() / group; ++j) {
      fit.scales[j] = fit_levels(x.subspan(j * group, group),
                                 Weights(weights).subspan(j * group, group), scheme.grid.table);
    }
    return fit;
  }
  GroupBlock<16, 16> block;
  const SymmetricSearch search = {.half = -scheme.grid.lowest, .weights = rule};
  if (type.name == "q3_k" && importance.empty()) {
    fit_symmetric_by_turns(x.data(), search, block);
  } else {
    search_symmetric_groups(x.data(), weights.data(), search, block);
    add_groups(weights, fit.mass);
  }
  for (size_t j = 0; j < fit.scales.size(); ++j) {
    fit.scales[j] = block.scale[j];
    for (size_t i = 0; i < group; ++i) {
      codes[j * group + i] = static_cast<uint8_t>(block.best[i][j]);
    }
  }
  return fit;
}

// The codes of a block with group scales d * stored.
void code_symmetric(const Scheme& scheme, Weights x, float d, const int8_t* stored,
                    uint8_t* codes) {
  const auto group = static_cast<size_t>(scheme.blocking.columns);
  const int half = -scheme.grid.lowest;
  for (size_t j = 0; j < x.size() / group; ++j) {
    const Weights part = x.subspan(j * group, group);
    const float scale = d * static_cast<float>(stored[j]);
    if (scheme.grid.kind == Grid::Kind::kTable) {
      code_levels(part, scheme.grid.table, scale, codes + j * group);
    } else if (scale != 0.F) {
      for (size_t i = 0; i < group; ++i) {
        codes[j * group + i] = static_cast<uint8_t>(clamped(part[i] / scale, half) + half);
      }
    }
  }
}

// Q3_K with importance: the group scales are searched as weights are.
void quantize_symmetric_weighed(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                                const Output& out) {
  uint8_t* codes = out.codes + b * kSuperBlock;
  const SymmetricFit fit = fit_symmetric(type, x, importance, codes);
  const int half = 1 << (type.scheme.scale->bits - 1);
  GroupBlock<1, 16> block;
  search_symmetric_groups(fit.scales.data(), fit.mass.data(),
                          {.half = half, .weights = GroupWeights::kGiven}, block);
  out.scale_second[b] = float_to_f16(block.scale[0]);
  auto* stored = reinterpret_cast<int8_t*>(out.scale) + b * std::ssize(fit.scales);
  for (size_t j = 0; j < fit.scales.size(); ++j) {
    stored[j] = static_cast<int8_t>(static_cast<int>(block.best[j][0]) - half);
  }
  code_symmetric(type.scheme, x, f16_to_float(out.scale_second[b]), stored, codes);
}

// Q3_K, Q6_K, IQ4_XS: the group scale of largest magnitude becomes the lowest integer.
void quantize_symmetric(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                        const Output& out) {
  const Scheme& scheme = type.scheme;
  const auto groups = static_cast<size_t>(kSuperBlock / scheme.blocking.columns);
  const auto lowest = static_cast<float>(-(1 << (scheme.scale->bits - 1)));
  uint8_t* codes = out.codes + b * kSuperBlock;
  const SymmetricFit fit = fit_symmetric(type, x, importance, codes);
  const float largest = extreme(Weights(fit.scales).first(groups));
  auto* stored = reinterpret_cast<int8_t*>(out.scale + b * static_cast<int64_t>(groups));
  if (std::fabs(largest) < kNothing) {
    // What an F16 of zero makes of the integers and codes does not matter; they are llama.cpp's.
    std::fill_n(stored, groups, type.name == "q3_k" ? int8_t{-32} : int8_t{0});
    if (type.name == "q6_k") std::fill_n(codes, kSuperBlock, uint8_t{0});
    if (type.name == "iq4_xs") code_levels(x, scheme.grid.table, 0.F, codes);
    out.scale_second[b] = type.name == "iq4_xs" ? 0x8000 : 0;
    return;
  }
  // IQ4_XS codes by the scale as it was before it became an F16.
  const bool exact = type.name == "iq4_xs";
  const float d = exact ? largest / lowest : 1.F / (lowest / largest);
  const float inverse = exact ? 1.F / d : lowest / largest;
  out.scale_second[b] = float_to_f16(d);
  for (size_t j = 0; j < groups; ++j) {
    stored[j] = static_cast<int8_t>(std::clamp(
        nearest(inverse * fit.scales[j]), static_cast<int>(lowest), static_cast<int>(-lowest) - 1));
  }
  code_symmetric(scheme, x, exact ? d : through_f16(d), stored, codes);
}

// ---- groups of 256 weights with minimums --------------------------------------------------------

AffineSearch coarse_search(const GgmlScheme& type) {
  if (type.name == "q2_k") {
    return {.last = 3,
            .first = -0.5F,
            .steps = 15,
            .absolute = true,
            .weights = GroupWeights::kMagnitude};
  }
  if (type.name == "q4_k") return {.last = 15, .first = -1.F, .steps = 20};
  return {.last = 31, .first = -0.5F, .steps = 15};
}

// Scales (or minimums), not negative, as integers times one number.
template <size_t kGroups>
struct Integers {
  float unit = 0.F;
  std::array<uint8_t, kGroups> values{};
};

// The largest becomes `top`.
template <size_t kGroups>
Integers<kGroups> to_integers(const std::array<float, kGroups>& x, int top) {
  Integers<kGroups> out;
  const float largest = std::max(0.F, std::ranges::max(x));
  out.unit = largest / static_cast<float>(top);
  const float inverse = largest > 0.F ? static_cast<float>(top) / largest : 0.F;
  for (size_t g = 0; g < kGroups; ++g) {
    out.values[g] = static_cast<uint8_t>(std::clamp(nearest(inverse * x[g]), 0, top));
  }
  return out;
}

// Of nine units around largest / top that of least error, weighted by mass; then up to five rounds
// in which each integer in turn takes the best value for the others', and least squares
// (make_qp_quants).
template <size_t kGroups>
Integers<kGroups> search_integers(const std::array<float, kGroups>& x,
                                  const std::array<float, kGroups>& mass, int top) {
  Integers<kGroups> out;
  const float largest = std::max(0.F, std::ranges::max(x));
  if (largest < kNothing) return out;
  const auto last = static_cast<float>(top);
  const auto integer = [&](float value) {
    return static_cast<float>(std::min(top, nearest(value)));
  };
  float inverse = last / largest;
  float least = 0.F;
  for (int t = -5; t <= 4; ++t) {
    if (t == 0) continue;
    const float tried = t == -5 ? inverse : (0.1F * static_cast<float>(t) + last) / largest;
    const float unit = 1.F / tried;
    float error = 0.F;
    for (size_t g = 0; g < kGroups; ++g) {
      const float off = x[g] - unit * integer(tried * x[g]);
      error += mass[g] * off * off;
    }
    if (t > -5 && !(error < least)) continue;
    least = error;
    inverse = tried;
  }
  std::array<float, kGroups> codes;
  float xq = 0.F;
  float qq = 0.F;
  for (size_t g = 0; g < kGroups; ++g) {
    codes[g] = integer(inverse * x[g]);
    xq += mass[g] * x[g] * codes[g];
    qq += mass[g] * codes[g] * codes[g];
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (size_t g = 0; g < kGroups; ++g) {
      float others_xq = xq - mass[g] * x[g] * codes[g];
      float others_qq = qq - mass[g] * codes[g] * codes[g];
      if (!(others_xq > 0.F && others_qq > 0.F)) continue;
      const float code = integer(x[g] * others_qq / others_xq);
      if (code == codes[g]) continue;
      others_xq += mass[g] * x[g] * code;
      others_qq += mass[g] * code * code;
      if (!(others_xq * others_xq * qq > xq * xq * others_qq)) continue;
      codes[g] = code;
      xq = others_xq;
      qq = others_qq;
      changed = true;
    }
    if (!changed) break;
  }
  out.unit = qq > 0.F ? xq / qq : 0.F;
  std::ranges::transform(codes, out.values.begin(),
                         [](float code) { return static_cast<uint8_t>(code); });
  return out;
}

// Q2_K, Q4_K, Q5_K.
template <size_t kGroups>
void quantize_affine(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                     const Output& out) {
  constexpr size_t kWidth = kSuperBlock / kGroups;
  const int last = (1 << type.scheme.grid.bits) - 1;
  const int top = (1 << type.scheme.scale->bits) - 1;
  AffineBlock<kGroups, kWidth> block;
  std::array<float, kGroups> mass{};
  if (importance.empty()) {
    search_affine_groups(x.data(), nullptr, coarse_search(type), block);
  } else {
    Weighing weights;
    weigh(x, importance, (type.name == "q2_k" ? 1.F : 2.F) * mean_square(x), weights);
    add_groups(weights, mass);
    search_affine_groups(x.data(), weights.data(), fine_search(last), block);
  }
  uint8_t* codes = out.codes + b * kSuperBlock;
  std::array<float, kGroups> scales;
  std::array<float, kGroups> minimums;
  for (size_t g = 0; g < kGroups; ++g) {
    const bool flat = block.high[g] == block.low[g];
    scales[g] = flat ? 0.F : block.scale[g];
    minimums[g] = -block.minimum[g];
    for (size_t i = 0; i < kWidth; ++i) {
      codes[g * kWidth + i] = flat ? uint8_t{0} : static_cast<uint8_t>(block.best[i][g]);
    }
  }
  const bool weighs = !importance.empty();
  const auto scale = weighs ? search_integers(scales, mass, top) : to_integers(scales, top);
  const auto minimum = weighs ? search_integers(minimums, mass, top) : to_integers(minimums, top);
  out.scale_second[b] = float_to_f16(scale.unit);
  out.minimum_second[b] = float_to_f16(minimum.unit);
  const float d = f16_to_float(out.scale_second[b]);
  const float m = f16_to_float(out.minimum_second[b]);
  out.minimum_second[b] ^= 0x8000;  // the scheme adds what the type subtracts
  const size_t first = static_cast<size_t>(b) * kGroups;
  for (size_t g = 0; g < kGroups; ++g) {
    out.scale[first + g] = std::byte{scale.values[g]};
    out.minimum[first + g] = std::byte{minimum.values[g]};
    const float group_scale = d * static_cast<float>(scale.values[g]);
    if (group_scale == 0.F) continue;
    const float group_minimum = m * static_cast<float>(minimum.values[g]);
    for (size_t i = g * kWidth; i < (g + 1) * kWidth; ++i) {
      const int code = nearest((x[i] + group_minimum) / group_scale);
      codes[i] = static_cast<uint8_t>(std::clamp(code, 0, last));
    }
  }
}

// Block b of 256.
void quantize_super_block(const GgmlScheme& type, Weights x, Weights importance, int64_t b,
                          const Output& out) {
  if (type.scheme.minimum && type.scheme.blocking.columns == 16) {
    quantize_affine<16>(type, x, importance, b, out);
  } else if (type.scheme.minimum) {
    quantize_affine<8>(type, x, importance, b, out);
  } else if (type.name == "q3_k" && !importance.empty()) {
    quantize_symmetric_weighed(type, x, importance, b, out);
  } else {
    quantize_symmetric(type, x, importance, b, out);
  }
}

// ---- whole layers -------------------------------------------------------------------------------

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

RoundedLinear quantize_ggml(ConstMatrixRef W, const GgmlScheme& type,
                            std::span<const float> importance, const std::string& where) {
  if (W.cols() % type.block != 0) {
    throw Error(where, "rows of " + std::to_string(W.cols()) + " weights are no multiple of " +
                           std::string(type.name) + "'s blocks of " + std::to_string(type.block));
  }
  check_finite(W, where);
  assert(importance.empty() || std::ssize(importance) == W.cols());
  RoundedLinear rounded;
  QuantizedLinear& q = rounded.q = allocate(type.scheme, W.rows(), W.cols());
  const Output out = {.codes = data_of<uint8_t>(q.codes),
                      .scale = data_of<std::byte>(q.scale.values),
                      .scale_second = data_of<uint16_t>(q.scale.second),
                      .minimum = data_of<std::byte>(q.minimum.values),
                      .minimum_second = data_of<uint16_t>(q.minimum.second)};
  const int64_t row_blocks = W.cols() / type.block;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < W.rows(); ++n) {
    const Weights row(W.data() + n * W.outerStride(), static_cast<size_t>(W.cols()));
    if (type.block == kBlock) {
      quantize_plain_row(type, row, importance, n * row_blocks, out);
      continue;
    }
    for (int64_t i = 0; i < row_blocks; ++i) {
      const auto k = static_cast<size_t>(i * kSuperBlock);
      const Weights part = importance.empty() ? importance : importance.subspan(k, kSuperBlock);
      quantize_super_block(type, row.subspan(k, kSuperBlock), part, n * row_blocks + i, out);
    }
  }
  check(q, where);
  rounded.weight_error = relative_error(W, q);
  return rounded;
}

}  // namespace nibble
