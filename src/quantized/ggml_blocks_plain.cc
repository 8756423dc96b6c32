#include <algorithm>
#include <array>
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

void store_half(std::byte* values, int64_t at, float value) {
  reinterpret_cast<uint16_t*>(values)[at] = float_to_f16(value);
}

// By the extremes: blocks b, b + 1, .. of up to 256 weights.
void quantize_plain(const GgmlScheme& type, GgmlWeights x, int64_t b, const GgmlOutput& out) {
  uint8_t* codes = out.codes + b * kPlainBlock;
  const int bits = type.scheme.grid.bits;
  const auto blocks = static_cast<int64_t>(x.size()) / kPlainBlock;
  std::array<PlainFit, kSuperBlock / kPlainBlock> fits;
  if (type.name == "mxfp4") {
    fit_e2m1(x, codes, fits.data());
    for (int64_t i = 0; i < blocks; ++i) {
      out.scale[b + i] = std::byte{float_to_f8(fits[static_cast<size_t>(i)].scale, Dtype::kF8E8M0)};
    }
    return;
  }
  if (type.name == "q8_0") {
    fit_bytes(x, codes, fits.data());
  } else if (out.minimum != nullptr) {
    fit_between(x, bits, codes, fits.data());
  } else {
    fit_signed(x, bits, codes, fits.data());
  }
  for (int64_t i = 0; i < blocks; ++i) {
    const PlainFit& fit = fits[static_cast<size_t>(i)];
    store_half(out.scale, b + i, fit.scale);
    if (out.minimum != nullptr) store_half(out.minimum, b + i, fit.minimum);
  }
}

// IQ4_NL: blocks b, b + 1, .. of up to 256 weights.
void quantize_levels(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, int64_t b,
                     const GgmlOutput& out) {
  GgmlWeighing values{};
  GgmlWeighing weights{};
  std::ranges::copy(x, values.begin());
  const auto blocks = static_cast<int64_t>(x.size()) / kPlainBlock;
  for (int64_t i = 0; i < blocks && !importance.empty(); ++i) {
    const auto k = static_cast<size_t>(i * kPlainBlock);
    const GgmlWeights block = x.subspan(k, kPlainBlock);
    weigh(block, importance.subspan(k, kPlainBlock), 2.F * mean_square(block), weights.data() + k);
  }
  const GgmlWeights table = type.scheme.grid.table;
  std::array<float, kSuperBlock / kPlainBlock> scales;
  fit_levels(values.data(), importance.empty() ? nullptr : weights.data(), table, scales);
  for (int64_t i = 0; i < blocks; ++i) {
    const float scale = scales[static_cast<size_t>(i)];
    code_levels(x.subspan(static_cast<size_t>(i * kPlainBlock), kPlainBlock), table, scale,
                out.codes + (b + i) * kPlainBlock);
    store_half(out.scale, b + i, scale);
  }
}

// Q4_0, Q4_1, Q5_0, Q5_1 with importance: blocks b, b + 1, .. of up to 256 weights side by side.
void quantize_weighed(const GgmlScheme& type, GgmlWeights x, GgmlWeights importance, float spread,
                      int64_t b, const GgmlOutput& out) {
  GgmlWeighing values{};
  GgmlWeighing weights{};
  std::ranges::copy(x, values.begin());
  weigh(x, importance, spread, weights.data());
  const Grid& grid = type.scheme.grid;
  const auto store = [&](const auto& block, size_t g, bool flat) {
    const int64_t at = b + static_cast<int64_t>(g);
    store_half(out.scale, at, flat ? 0.F : block.scale[g]);
    for (size_t i = 0; i < kPlainBlock; ++i) {
      out.codes[at * kPlainBlock + static_cast<int64_t>(i)] =
          flat ? uint8_t{0} : static_cast<uint8_t>(block.best[i][g]);
    }
  };
  const size_t blocks = x.size() / kPlainBlock;
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
  const bool has_levels = type.name == "iq4_nl";
  const bool weighs = !importance.empty() && !has_levels && type.name != "q8_0" &&
                      type.scheme.grid.kind == Grid::Kind::kInteger;
  const float spread = weighs ? mean_square(x) : 0.F;
  for (size_t k = 0; k < x.size(); k += kSuperBlock, b += kSuperBlock / kPlainBlock) {
    const size_t count = std::min<size_t>(kSuperBlock, x.size() - k);
    const GgmlWeights part = importance.empty() ? importance : importance.subspan(k, count);
    if (has_levels) {
      quantize_levels(type, x.subspan(k, count), part, b, out);
    } else if (weighs) {
      quantize_weighed(type, x.subspan(k, count), part, spread, b, out);
    } else {
      quantize_plain(type, x.subspan(k, count), b, out);
    }
  }
}

}  // namespace nibble
