// The path of processors without AVX2: baseline instructions, chunk by chunk.
#include <algorithm>
#include <array>
#include <cstdint>

#include "formats/packing/packing.h"
#include "formats/packing/rows.h"
#include "kernels/dequant_matmul_paths.h"

namespace nibble {
namespace {

using Chunk = std::array<float, 16>;

template <int kBits, Decoder kDecoder>
struct Scalar {
  using Layout = Rows<kBits>;

  static Chunk decode(const PackedRow& row, int64_t chunk) {
    const int64_t group = std::min(chunk / row.group_chunks, row.groups - 1);
    const float scale = row.scale[group * row.scale_step];
    const float zero = row.zero[group * row.zero_step];
    const float minimum = row.minimum[group * row.minimum_step];
    Chunk weights;
    for (int i = 0; i < Layout::kChunk; ++i) {
      const int64_t column = chunk * Layout::kChunk + i;
      const int code = load_code<Layout>(row.words, 0, column, 1, column + 1);
      const float level =
          kDecoder == Decoder::kInteger ? static_cast<float>(code + row.lowest) : row.levels[code];
      weights[i] = (level - zero) * scale + minimum;
    }
    return weights;
  }

  template <int kTokens>
  static void multiply(const PackedRow& row, int64_t first, int64_t tiles, const float* x,
                       float* sums) {
    std::array<Chunk, kTokens> partial{};
    const int64_t last = (first + tiles) * Layout::kTileChunks;
    for (int64_t chunk = first * Layout::kTileChunks; chunk < last; ++chunk) {
      const Chunk weights = decode(row, chunk);
      for (int t = 0; t < kTokens; ++t) {
        for (int i = 0; i < Layout::kChunk; ++i) partial[t][i] += weights[i] * *x++;
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      sums[t] = 0.f;
      for (const float part : partial[t]) sums[t] += part;
    }
  }

  static void expand(const PackedRow& row, int64_t first, int64_t tiles, float* out) {
    const int64_t last = (first + tiles) * Layout::kTileChunks;
    for (int64_t chunk = first * Layout::kTileChunks; chunk < last; ++chunk) {
      const Chunk weights = decode(row, chunk);
      out = std::copy(weights.begin(), weights.end(), out);
    }
  }

  static MultiplyRow select(int tokens) {
    switch (tokens) {
      case 1:
        return multiply<1>;
      case 2:
        return multiply<2>;
      case 4:
        return multiply<4>;
      default:
        return multiply<8>;
    }
  }
};

// visit of the Scalar that the kind asks for.
template <typename Visit>
auto with_kind(RowKind kind, const Visit& visit) {
  if (kind.decoder == Decoder::kInteger) return visit(Scalar<8, Decoder::kInteger>());
  if (kind.decoder == Decoder::kGather) return visit(Scalar<8, Decoder::kGather>());
  switch (kind.bits) {
    case 2:
      return visit(Scalar<2, Decoder::kTable>());
    case 3:
      return visit(Scalar<3, Decoder::kTable>());
    default:
      return visit(Scalar<4, Decoder::kTable>());
  }
}

MultiplyRow select_multiply(RowKind kind, int tokens) {
  return with_kind(kind, [tokens](auto scalar) { return scalar.select(tokens); });
}

ExpandRow select_expand(RowKind kind) {
  return with_kind(kind, [](auto scalar) { return ExpandRow{scalar.expand}; });
}

}  // namespace

const DequantPath kScalarDequant = {"scalar", select_multiply, select_expand};

}  // namespace nibble
