// Packing: where the bits of a code live in an array of words, one constexpr function per layout.
// Standard library only, host and device.
//
// A layout is a struct with
//   Word       unsigned type of the array's elements
//   kBits      bits of a code
//   words(N, K)          elements of the array that holds codes [N, K]
//   at(n, k, N, K)       the one or two bit slices of code (n, k)
// Here is what follows from `at` for single codes: the specification. Whole matrices, fast:
// formats/packing/matrix.h. Byte diagrams: formats/<format>.md.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define NIBBLE_HD __host__ __device__
#else
#define NIBBLE_HD
#endif

namespace nibble {

// Bits [lsb, lsb + width) of a code are bits [shift, shift + width) of words[word].
struct BitSlice {
  int64_t word = 0;
  int shift = 0;
  int width = 0;
  int lsb = 0;
};

// Low bits first. high.width is 0 unless the code straddles two words; high.word means nothing
// then.
struct BitSlices {
  BitSlice low;
  BitSlice high;
};

template <typename P>
inline constexpr int kWordBits = 8 * static_cast<int>(sizeof(typename P::Word));

NIBBLE_HD constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Words that hold `codes` codes of an LSB-first bit stream.
template <typename Word, int kBits>
NIBBLE_HD constexpr int64_t stream_words(int64_t codes) {
  return divide_up(codes * kBits, 8 * static_cast<int64_t>(sizeof(Word)));
}

// Code e of an LSB-first bit stream whose word w is words[first + w * stride].
template <typename Word, int kBits>
NIBBLE_HD constexpr BitSlices stream_slices(int64_t e, int64_t first, int64_t stride) {
  constexpr int kWidth = 8 * static_cast<int>(sizeof(Word));
  const int64_t bit = e * kBits;
  const int64_t word = bit / kWidth;
  const int shift = static_cast<int>(bit % kWidth);
  const int low = shift + kBits <= kWidth ? kBits : kWidth - shift;
  return {{first + word * stride, shift, low, 0},
          {first + (word + 1) * stride, 0, kBits - low, low}};
}

// Bits of a slice as they lie in the word.
NIBBLE_HD constexpr uint32_t slice_mask(const BitSlice& slice) {
  return ((uint32_t{1} << slice.width) - 1) << slice.shift;
}

// What the slices hold.
template <typename Word>
NIBBLE_HD constexpr uint8_t load_slices(const Word* words, const BitSlices& s) {
  uint32_t code = (words[s.low.word] & slice_mask(s.low)) >> s.low.shift << s.low.lsb;
  if (s.high.width > 0) {
    code |= (words[s.high.word] & slice_mask(s.high)) >> s.high.shift << s.high.lsb;
  }
  return static_cast<uint8_t>(code);
}

template <typename P>
NIBBLE_HD constexpr uint8_t load_code(const typename P::Word* words, int64_t n, int64_t k,
                                      int64_t N, int64_t K) {
  return load_slices(words, P::at(n, k, N, K));
}

template <typename Word>
NIBBLE_HD constexpr void store_slice(Word* words, const BitSlice& slice, uint32_t code) {
  const uint32_t mask = slice_mask(slice);
  const uint32_t bits = (code >> slice.lsb << slice.shift) & mask;
  words[slice.word] = static_cast<Word>((words[slice.word] & ~mask) | bits);
}

// Leaves all other bits as they are.
template <typename Word>
NIBBLE_HD constexpr void store_slices(Word* words, const BitSlices& s, uint32_t code) {
  store_slice(words, s.low, code);
  if (s.high.width > 0) store_slice(words, s.high, code);
}

template <typename P>
NIBBLE_HD constexpr void store_code(typename P::Word* words, int64_t n, int64_t k, int64_t N,
                                    int64_t K, uint8_t code) {
  store_slices(words, P::at(n, k, N, K), code);
}

}  // namespace nibble
