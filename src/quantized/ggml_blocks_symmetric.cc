#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "src/quantized/ggml_blocks.h"
#include "src/quantized/ggml_groups.h"
#include "src/quantized/ggml_levels.h"
#include "src/quantized/ggml_plain.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/ggml_symmetric.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"

namespace nibble {
namespace {

int clamped(float x, int half) { return std::clamp(nearest_integer(x), -half, half - 1); }

// Of the 16 (IQ4_XS: 8) groups of a block.
struct SymmetricFit {
  std::array<float, 16> scales{};
  std::array<float, 16> mass{};  // sums of what the group's errors count
};

// Fills codes [256] too, but for IQ4_XS.
SymmetricFit fit_symmetric(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance,
                           uint8_t* codes) {
  const Scheme& scheme = type.scheme;
  const auto group = static_cast<size_t>(scheme.blocking.columns);
  SymmetricFit fit;
  GgmlWeighing weights;
  const GroupWeights rule = importance.empty() ? GroupWeights::kSquare : GroupWeights::kGiven;
  if (!importance.empty() && type.name == "q6_k") {
    std::ranges::copy(importance, weights.begin());
  } else if (!importance.empty()) {
    weigh(x, importance, 2.F * mean_square(x), weights.data());
  }
  if (scheme.grid.kind == Grid::Kind::kTable) {
    fit_levels(x.data(), importance.empty() ? nullptr : weights.data(), scheme.grid.table,
               std::span(fit.scales).first<kLevelGroups>());
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
void code_symmetric(const Scheme& scheme, GgmlWeights x, float d, const int8_t* stored,
                    uint8_t* codes) {
  const auto group = static_cast<size_t>(scheme.blocking.columns);
  const int half = -scheme.grid.lowest;
  for (size_t j = 0; j < x.size() / group; ++j) {
    const GgmlWeights part = x.subspan(j * group, group);
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
void quantize_symmetric_weighed(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance,
                                int64_t b, const GgmlOutput& out) {
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

}  // namespace

// Q3_K, Q6_K, IQ4_XS: the group scale of largest magnitude becomes the lowest integer.
void quantize_symmetric(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                        const GgmlOutput& out) {
  if (type.name == "q3_k" && !importance.empty()) {
    quantize_symmetric_weighed(type, x, importance, b, out);
    return;
  }
  const Scheme& scheme = type.scheme;
  const auto groups = static_cast<size_t>(kSuperBlock / scheme.blocking.columns);
  const auto lowest = static_cast<float>(-(1 << (scheme.scale->bits - 1)));
  uint8_t* codes = out.codes + b * kSuperBlock;
  const SymmetricFit fit = fit_symmetric(type, x, importance, codes);
  const float largest = extreme(GgmlWeights(fit.scales).first(groups));
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
    stored[j] =
        static_cast<int8_t>(std::clamp(nearest_integer(inverse * fit.scales[j]),
                                       static_cast<int>(lowest), static_cast<int>(-lowest) - 1));
  }
  code_symmetric(scheme, x, exact ? d : f16_to_float(out.scale_second[b]), stored, codes);
}

}  // namespace nibble
