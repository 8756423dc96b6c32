#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "src/quantized/ggml_affine.h"
#include "src/quantized/ggml_blocks.h"
#include "src/quantized/ggml_groups.h"
#include "src/quantized/ggml_schemes.h"
#include "src/tensor/convert.h"

namespace nibble {
namespace {

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
    out.values[g] = static_cast<uint8_t>(std::clamp(nearest_integer(inverse * x[g]), 0, top));
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
    return static_cast<float>(std::min(top, nearest_integer(value)));
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

template <size_t kGroups>
void quantize_groups(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                     const GgmlOutput& out) {
  constexpr size_t kWidth = kSuperBlock / kGroups;
  const int last = (1 << type.scheme.grid.bits) - 1;
  const int top = (1 << type.scheme.scale->bits) - 1;
  AffineBlock<kGroups, kWidth> block;
  std::array<float, kGroups> mass{};
  if (importance.empty()) {
    search_affine_groups(x.data(), nullptr, coarse_search(type), block);
  } else {
    GgmlWeighing weights;
    weigh(x, importance, (type.name == "q2_k" ? 1.F : 2.F) * mean_square(x), weights.data());
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
      const int code = nearest_integer((x[i] + group_minimum) / group_scale);
      codes[i] = static_cast<uint8_t>(std::clamp(code, 0, last));
    }
  }
}

}  // namespace

void quantize_affine(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                     const GgmlOutput& out) {
  if (type.scheme.blocking.columns == 16) {
    quantize_groups<16>(type, x, importance, b, out);
  } else {
    quantize_groups<8>(type, x, importance, b, out);
  }
}

}  // namespace nibble
