// From QuantizedLinear to PackedLinear: the order of the columns, one float of each parameter per
// row and group, the levels, the codes.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "formats/packing/rows.h"
#include "kernels/dequant_matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kChunk = 16;      // columns that a kernel takes at once; a group begins at one
constexpr int64_t kMostSpread = 4;  // packed columns per column

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Which column goes where.
struct Arrangement {
  int64_t group = 0;
  int64_t groups = 0;
  int64_t columns = 0;
  std::vector<int32_t> column;  // as PackedLinear::column
};

// Every group at a multiple of kChunk. members [G]: the columns of each group, in order.
Arrangement arrange_groups(const std::vector<std::vector<int32_t>>& members, int64_t K) {
  size_t largest = 0;
  for (const auto& group : members) largest = std::max(largest, group.size());
  Arrangement result;
  result.groups = static_cast<int64_t>(members.size());
  result.group = round_up(static_cast<int64_t>(largest), kChunk);
  for (int64_t g = 0; g < result.groups; ++g) {
    if (members[g].empty()) continue;
    result.column.resize(static_cast<size_t>(g * result.group), -1);
    result.column.insert(result.column.end(), members[g].begin(), members[g].end());
  }
  result.columns = static_cast<int64_t>(result.column.size());
  std::vector<int32_t> identity(static_cast<size_t>(K));
  std::iota(identity.begin(), identity.end(), 0);
  if (result.column == identity) result.column.clear();
  return result;
}

// Blocks of `size` columns along the row.
Arrangement arrange_blocks(int64_t size, int64_t K) {
  if (size >= K) return {.group = round_up(K, kChunk), .groups = 1, .columns = K, .column = {}};
  const int64_t groups = (K + size - 1) / size;
  if (size % kChunk == 0) return {.group = size, .groups = groups, .columns = K, .column = {}};
  std::vector<std::vector<int32_t>> members(static_cast<size_t>(groups));
  for (int64_t k = 0; k < K; ++k) members[k / size].push_back(static_cast<int32_t>(k));
  return arrange_groups(members, K);
}

std::optional<Arrangement> arrange(const QuantizedLinear& q) {
  const Blocking& blocking = q.scheme.blocking;
  if (!q.group_of_column.empty()) {
    const int32_t last = *std::max_element(q.group_of_column.begin(), q.group_of_column.end());
    std::vector<std::vector<int32_t>> members(static_cast<size_t>(last) + 1);
    for (int64_t k = 0; k < q.K; ++k) {
      members[q.group_of_column[k]].push_back(static_cast<int32_t>(k));
    }
    return arrange_groups(members, q.K);
  }
  if (!blocking.flattened)
    return arrange_blocks(blocking.columns == kAll ? q.K : blocking.columns, q.K);
  const int64_t common = std::gcd(blocking.columns, q.K);
  if (common != q.K && common % kChunk != 0) return std::nullopt;
  return arrange_blocks(common, q.K);
}

// One book per so many rows; nothing if a row has several.
std::optional<int64_t> rows_per_book(const QuantizedLinear& q) {
  if (q.scheme.grid.kind != Grid::Kind::kCodebook) return q.N;
  const Blocking& blocking = q.scheme.codebook_blocking;
  const bool whole_rows = blocking.columns == kAll || blocking.columns >= q.K;
  if (blocking.flattened || !whole_rows) return std::nullopt;
  return blocking.rows == kAll ? q.N : blocking.rows;
}

std::optional<Arrangement> packable(const QuantizedLinear& q) {
  if (!rows_per_book(q)) return std::nullopt;
  std::optional<Arrangement> result = arrange(q);
  if (result && result->columns > kMostSpread * round_up(q.K, kChunk)) return std::nullopt;
  return result;
}

int packed_bits(int bits) { return bits <= 2 ? 2 : bits <= 4 ? bits : 8; }

// A column of every group, where its parameters are looked up.
std::vector<int64_t> group_samples(const PackedLinear& w) {
  std::vector<int64_t> samples(static_cast<size_t>(w.groups), 0);
  for (int64_t g = 0; g < w.groups; ++g) {
    const int64_t p = g * w.group;
    if (w.column.empty()) {
      samples[g] = p;
    } else if (p < w.columns) {
      samples[g] = std::max(w.column[p], 0);  // a group without columns: any parameters
    }
  }
  return samples;
}

void pack_parameters(const QuantizedLinear& q, PackedLinear& w) {
  const FloatParameters parameters = float_parameters(q);
  const std::vector<int64_t> samples = group_samples(w);
  const auto copy = [&](const std::vector<float>& blocks, std::vector<float>& out) {
    if (blocks.empty()) return;
    out.resize(static_cast<size_t>(w.N * w.groups));
    for (int64_t n = 0; n < w.N; ++n) {
      for (int64_t g = 0; g < w.groups; ++g) {
        out[n * w.groups + g] = blocks[block_index(q, n, samples[g])];
      }
    }
  };
  copy(parameters.scale, w.scale);
  copy(parameters.zero, w.zero);
  copy(parameters.minimum, w.minimum);
}

void pack_levels(const QuantizedLinear& q, PackedLinear& w) {
  const Grid& grid = q.scheme.grid;
  w.book_rows = *rows_per_book(q);
  if (grid.kind == Grid::Kind::kInteger) {
    w.lowest = grid.lowest;
    if (w.bits == 8) return;
  }
  std::vector<float> levels = grid.table;
  if (grid.kind == Grid::Kind::kInteger) {
    for (int code = 0; code < 1 << grid.bits; ++code) {
      levels.push_back(static_cast<float>(code + grid.lowest));
    }
  } else if (grid.kind == Grid::Kind::kCodebook) {
    levels.resize(static_cast<size_t>(q.codebooks.elements()));
    to_float(q.codebooks.view(), levels);
  }
  const size_t codes = size_t{1} << grid.bits;
  const size_t entries = w.bits == 8 ? 256 : 16;
  for (size_t book = 0; book < levels.size() / codes; ++book) {
    for (size_t i = 0; i < entries; ++i) w.levels.push_back(levels[book * codes + i % codes]);
  }
}

// U32 zeros that lie on huge pages where the system gives them on request: a row walk then misses
// no address translations.
Tensor allocate_words(int64_t N, int64_t row_words) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const Shape shape = {N, row_words};
  const auto bytes = static_cast<size_t>(byte_count(Dtype::kU32, shape));
  if (bytes < kHugePage) return Tensor::allocate(Dtype::kU32, shape);
  void* memory = std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage);
  if (memory == nullptr) throw std::bad_alloc();
  const std::shared_ptr<void> owner(memory, std::free);
  madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // may be refused
  std::memset(memory, 0, bytes);
  return Tensor::borrow(
      {Dtype::kU32, shape, {static_cast<const std::byte*>(memory), bytes}, Device::kCpu}, owner);
}

template <typename P>
void pack_codes(const QuantizedLinear& q, PackedLinear& w) {
  w.row_words = P::row_words(w.columns);
  w.words = allocate_words(w.N, w.row_words);
  // Ours, and shared with nobody yet.
  auto* words = const_cast<uint32_t*>(w.words.values<uint32_t>().data());
  const std::span<const uint8_t> codes = q.codes.values<uint8_t>();
  const int64_t tiles = P::row_tiles(w.columns);
#pragma omp parallel
  {
    std::vector<uint8_t> row(static_cast<size_t>(tiles * P::kTileColumns));
#pragma omp for schedule(static)
    for (int64_t n = 0; n < w.N; ++n) {
      const uint8_t* source = codes.data() + n * q.K;
      if (w.column.empty()) {
        std::copy(source, source + q.K, row.begin());
      } else {
        for (int64_t p = 0; p < w.columns; ++p) {
          row[p] = w.column[p] < 0 ? uint8_t{0} : source[w.column[p]];
        }
      }
      pack_tiles<P>(row.data(), tiles, words + n * w.row_words);
    }
  }
}

}  // namespace

bool can_pack(const QuantizedLinear& q) { return packable(q).has_value(); }

PackedLinear pack(const QuantizedLinear& q) {
  std::optional<Arrangement> arrangement = packable(q);
  if (!arrangement) {
    throw Error("", describe(q.scheme) + " of " + to_string({q.N, q.K}) + " has no packed form",
                "its weights must be expanded");
  }
  PackedLinear w;
  w.N = q.N;
  w.K = q.K;
  w.bits = packed_bits(q.scheme.grid.bits);
  w.columns = arrangement->columns;
  w.group = arrangement->group;
  w.groups = arrangement->groups;
  w.column = std::move(arrangement->column);
  pack_parameters(q, w);
  pack_levels(q, w);
  switch (w.bits) {
    case 2:
      pack_codes<Rows<2>>(q, w);
      break;
    case 3:
      pack_codes<Rows<3>>(q, w);
      break;
    case 4:
      pack_codes<Rows<4>>(q, w);
      break;
    default:
      pack_codes<Rows<8>>(q, w);
  }
  return w;
}

int64_t PackedLinear::bytes() const {
  const size_t floats = levels.size() + scale.size() + zero.size() + minimum.size();
  return static_cast<int64_t>(words.bytes().size() + (floats + column.size()) * 4);
}

}  // namespace nibble
