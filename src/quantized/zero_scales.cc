#include "src/quantized/zero_scales.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/quantized/blocks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"

namespace nibble {
namespace {

bool has_level_zero(const Grid& grid) {
  return grid.kind == Grid::Kind::kInteger ||
         (grid.kind == Grid::Kind::kTable &&
          std::ranges::find(grid.table, 0.F) != grid.table.end());
}

}  // namespace

ZeroScales zero_scales(const QuantizedLinear& q) {
  ZeroScales found;
  if (!q.scheme.scale || q.scheme.scale->second || !has_level_zero(q.scheme.grid)) return found;
  const FloatParameters parameters = float_parameters(q);
  const bool any = std::ranges::find(parameters.scale, 0.F) != parameters.scale.end();
  if (!any) return found;
  std::vector<bool> emptied(parameters.scale.size());
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t k = 0; k < q.K; ++k) {
      const auto block = static_cast<size_t>(block_index(q, n, k));
      const float zero = parameters.zero.empty() ? 0.F : parameters.zero[block];
      if (parameters.scale[block] == 0.F && level(q, n, k) != zero) emptied[block] = true;
    }
  }
  found.blocks = std::ranges::count(emptied, true);
  const auto first = std::ranges::find(emptied, true);
  if (first != emptied.end()) {
    found.first = block_place(q.scheme.blocking, q.N, q.K, first - emptied.begin());
  }
  return found;
}

}  // namespace nibble
