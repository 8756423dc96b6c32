// KernelChoice: which instance of the kernels of a linear layer; the list of those that are
// compiled. Plans, launches and tests go from a choice to a type here.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/few_tokens.h"
#include "kernels/cuda/float_product.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/integer_product.h"
#include "kernels/cuda/token_tiles.h"
#include "kernels/cuda/weights.h"

namespace nibble {

struct KernelChoice {
  FragmentKind kind = FragmentKind::kInt4;
  int tokens = 8;       // of a tile: 8, 16, 32, 48
  int scale_tiles = 1;  // of FewTokens: 1, 2, 4

  bool operator==(const KernelChoice&) const = default;
};

// 16-bit activations up to here go to FewTokens, which keeps weights exact.
inline constexpr int kMostFewTokens = 16;

// Largest of {1, 2, 4} tiles of 32 columns that a unit and every group are multiples of.
template <typename Weights>
constexpr int scale_tiles(int64_t group) {
  constexpr int kUnit = FewTokens<Weights, F16, 1, 1>::kUnitTiles;
  int tiles = std::is_same_v<Weights, TableWeights> ? 2 : kUnit;
  while (tiles > 1 && group % (32 * tiles) != 0) tiles /= 2;
  return tiles;
}

// visit(std::type_identity<kernel>{}): FewTokens or TokenTiles of `Weights` and T.
template <typename Weights, typename T, typename Visit>
auto with_float_kernel(const KernelChoice& c, const Visit& visit) {
  if (c.tokens == 48) return visit(std::type_identity<TokenTiles<FloatProduct<Weights, T>, 48>>{});
  if (c.tokens == 32) return visit(std::type_identity<TokenTiles<FloatProduct<Weights, T>, 32>>{});
  const auto few = [&](auto tiles) {
    constexpr int kTiles = decltype(tiles)::value;
    if (c.tokens == 16) return visit(std::type_identity<FewTokens<Weights, T, 2, kTiles>>{});
    return visit(std::type_identity<FewTokens<Weights, T, 1, kTiles>>{});
  };
  if constexpr (std::is_same_v<Weights, Int4Weights>) {
    if (c.scale_tiles == 4) return few(Constant<4>{});
  }
  if (c.scale_tiles == 2) return few(Constant<2>{});
  return few(Constant<1>{});
}

// TokenTiles of `Weights` with 8-bit activations, outputs in T.
template <typename Weights, typename T, typename Visit>
auto with_integer_kernel(const KernelChoice& c, const Visit& visit) {
  using Product = IntegerProduct<Weights, T>;
  if (c.tokens == 48) return visit(std::type_identity<TokenTiles<Product, 48>>{});
  if (c.tokens == 32) return visit(std::type_identity<TokenTiles<Product, 32>>{});
  if (c.tokens == 16) return visit(std::type_identity<TokenTiles<Product, 16>>{});
  return visit(std::type_identity<TokenTiles<Product, 8>>{});
}

// Any of them.
template <typename T, typename Visit>
auto with_kernel(const KernelChoice& c, const Visit& visit) {
  switch (c.kind) {
    case FragmentKind::kInt4:
      return with_float_kernel<Int4Weights, T>(c, visit);
    case FragmentKind::kInt8:
      return with_float_kernel<Int8Weights, T>(c, visit);
    case FragmentKind::kTable:
      return with_float_kernel<TableWeights, T>(c, visit);
    case FragmentKind::kInteger8:
      return with_integer_kernel<ByteWeights, T>(c, visit);
    default:
      return with_integer_kernel<NibbleWeights, T>(c, visit);
  }
}

}  // namespace nibble
