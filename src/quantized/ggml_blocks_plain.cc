#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "src/quantized/ggml_affine.h"
#include "src/quantized/ggml_blocks.h"
#include "src/quantized/ggml_groups.h"
#include "src/quantized/ggml_levels.h"
#include "src/quantized/ggml_plain.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/ggml_symmetric.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

constexpr int64_t kBlock = 32;

void store_half(std::byte* values, int64_t at, float value) {
  reinterpret_cast<uint16_t*>(values)[at] = float_to_f16(value);
}

// Block b.
void quantize_plain(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                    const GgmlOutput& out) {
  uint8_t* codes = out.codes + b * kBlock;
  const Grid& grid = type.scheme.grid;
  if (type.name == "mxfp4") {
    out.scale[b] = std::byte{float_to_f8(fit_e2m1(x, codes).scale, Dtype::kF8E8M0)};
    return;
  }
  if (type.name == "iq4_nl") {
    GgmlWeighing weights;
    if (importance.empty()) {
      squares(x, weights);
    } else {
      weigh(x, importance, 2.F * mean_square(x), weights);
    }
    const float scale = fit_levels(x, GgmlWeights(weights).first(x.size()), grid.table);
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

// Q4_0, Q4_1, Q5_0, Q5_1 with importance: blocks b, b + 1, .. of up to 256 weights side by side.
void quantize_weighed(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, float spread,
                      int64_t b, const GgmlOutput& out) {
  GgmlWeighing values{};
  GgmlWeighing weights{};
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

}  // namespace

void quantize_plain_row(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                        const GgmlOutput& out) {
  const bool searches = type.scheme.grid.kind == Grid::Kind::kInteger && type.name != "q8_0";
  const bool weighs = !importance.empty() && searches;
  const auto step = static_cast<size_t>(weighs ? kSuperBlock : kBlock);
  const float spread = weighs ? mean_square(x) : 0.F;
  for (size_t k = 0; k < x.size(); k += step, b += static_cast<int64_t>(step) / kBlock) {
    const size_t count = std::min(step, x.size() - k);
    const GgmlWeights part = importance.empty() ? importance : importance.subspan(k, count);
    if (weighs) {
      quantize_weighed(type, x.subspan(k, count), part, spread, b, out);
    } else {
      quantize_plain(type, x.subspan(k, count), part, b, out);
    }
  }
}

}  // namespace nibble
