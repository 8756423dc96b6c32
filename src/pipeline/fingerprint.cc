#include "src/pipeline/fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

#include "formats/checkpoint.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

bool zeros_are_the_middle(const QuantizedLinear& q) {
  if (!q.scheme.zero || q.scheme.grid.kind != Grid::Kind::kInteger || q.scheme.grid.lowest != 0 ||
      q.scheme.zero->type != Dtype::kU8 || q.scheme.zero->second) {
    return false;
  }
  const auto zeros = q.zero.values.values<uint8_t>();
  const int middle = 1 << (q.scheme.grid.bits - 1);
  return std::all_of(zeros.begin(), zeros.end(), [&](uint8_t z) { return z == middle; });
}

bool groups_are_in_order(const QuantizedLinear& q) {
  const int64_t columns = q.scheme.blocking.columns == kAll ? q.K : q.scheme.blocking.columns;
  for (size_t k = 0; k < q.group_of_column.size(); ++k) {
    if (q.group_of_column[k] != static_cast<int64_t>(k) / columns) return false;
  }
  return true;
}

}  // namespace

Hash128 hash_of(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

Hash128 hash_of(const QuantizedLinear& q) {
  QuantizedLinear canonical = q;
  if (zeros_are_the_middle(q)) {
    canonical.scheme.zero.reset();
    canonical.scheme.grid.lowest = -(1 << (q.scheme.grid.bits - 1));
    canonical.zero = {};
  }
  if (groups_are_in_order(q)) canonical.group_of_column.clear();
  return fingerprint(canonical);
}

Hash128 hash_of(const Checkpoint& checkpoint) {
  std::string text = checkpoint.config().dump();
  for (const auto& [name, stored] : checkpoint.tensors()) {
    text += '\n' + name + ' ' + std::string(dtype_name(stored.info.dtype));
    for (const int64_t extent : stored.info.shape) text += ' ' + std::to_string(extent);
    text += ' ' + to_text(hash_of(checkpoint.tensor(name).bytes()));
    checkpoint.release(name);
  }
  return hash_of(std::as_bytes(std::span(text)));
}

std::string to_text(const Hash128& hash) {
  std::array<char, 33> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx%016llx",
                static_cast<unsigned long long>(hash[1]), static_cast<unsigned long long>(hash[0]));
  return digits.data();
}

}  // namespace nibble
