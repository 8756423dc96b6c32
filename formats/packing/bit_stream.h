// LSB-first bit streams, eight codes at a time: the fast path of every layout whose codes lie in
// such streams along K. Which those are is decided in formats/packing/matrix.h. Host only,
// little-endian, where an array of words and its bytes are the same stream.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nibble {

static_assert(std::endian::native == std::endian::little);

// The low `bits` bits of every `period` bits.
constexpr uint64_t periodic_mask(int bits, int period) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; i += period) mask |= ((uint64_t{1} << bits) - 1) << i;
  return mask;
}

// Fields of kWidth bits, one every kPeriod bits: the odd ones move down to join the even ones.
template <int kWidth, int kPeriod>
constexpr uint64_t join_pairs(uint64_t fields) {
  constexpr uint64_t kEven = periodic_mask(kWidth, 2 * kPeriod);
  return (fields & kEven) | (fields >> (kPeriod - kWidth) & kEven << kWidth);
}

template <int kWidth, int kPeriod>
constexpr uint64_t split_pairs(uint64_t pairs) {
  constexpr uint64_t kEven = periodic_mask(kWidth, 2 * kPeriod);
  return (pairs & kEven) | (pairs & kEven << kWidth) << (kPeriod - kWidth);
}

// Eight codes, one a byte, the first lowest -> 8 * kBits bits, the first lowest.
template <int kBits>
constexpr uint64_t join_eight(uint64_t codes) {
  if constexpr (kBits == 8) return codes;
  return join_pairs<4 * kBits, 32>(join_pairs<2 * kBits, 16>(join_pairs<kBits, 8>(codes)));
}

// The inverse; bits from 8 * kBits on are ignored.
template <int kBits>
constexpr uint64_t split_eight(uint64_t bits) {
  if constexpr (kBits == 8) return bits;
  return split_pairs<kBits, 8>(split_pairs<2 * kBits, 16>(split_pairs<4 * kBits, 32>(bits)));
}

// codes [K] -> ceil(K * kBits / 8) bytes.
template <int kBits>
void pack_stream(const uint8_t* codes, int64_t K, std::byte* bytes) {
  const int64_t whole = K / 8;
  for (int64_t i = 0; i < whole; ++i) {
    uint64_t eight;
    std::memcpy(&eight, codes + 8 * i, 8);
    eight = join_eight<kBits>(eight);
    std::memcpy(bytes + kBits * i, &eight, kBits);
  }
  const auto rest = static_cast<size_t>(K % 8);
  if (rest == 0) return;
  uint64_t eight = 0;
  std::memcpy(&eight, codes + 8 * whole, rest);
  eight = join_eight<kBits>(eight);
  std::memcpy(bytes + kBits * whole, &eight, (rest * kBits + 7) / 8);
}

// ceil(K * kBits / 8) bytes -> codes [K].
template <int kBits>
void unpack_stream(const std::byte* bytes, int64_t K, uint8_t* codes) {
  const int64_t whole = K / 8;
  // Eight bytes are read where eight are there: reading 3, 5, 6 or 7 takes several loads.
  const int64_t size = (K * kBits + 7) / 8;
  const int64_t wide = size < 8 ? 0 : std::min(whole, (size - 8) / kBits + 1);
  const auto split = [&](int64_t i, size_t byte_count, size_t code_count) {
    uint64_t eight = 0;
    std::memcpy(&eight, bytes + kBits * i, byte_count);
    eight = split_eight<kBits>(eight);
    std::memcpy(codes + 8 * i, &eight, code_count);
  };
  for (int64_t i = 0; i < wide; ++i) split(i, 8, 8);
  for (int64_t i = wide; i < whole; ++i) split(i, kBits, 8);
  const auto rest = static_cast<size_t>(K % 8);
  if (rest > 0) split(whole, (rest * kBits + 7) / 8, rest);
}

}  // namespace nibble
