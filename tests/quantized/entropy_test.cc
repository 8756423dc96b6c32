#include "src/quantized/entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

int64_t coded_bits(const std::vector<int64_t>& counts) {
  const std::vector<int> lengths = huffman_lengths(counts);
  EXPECT_EQ(lengths.size(), counts.size());
  int64_t bits = 0;
  for (size_t i = 0; i < counts.size(); ++i) bits += counts[i] * lengths[i];
  return bits;
}

// The least sum of count * length over all lengths that a prefix code can have: those with
// sum 2^-length <= 1 (Kraft 1949). counts: all positive.
int64_t least_bits(const std::vector<int64_t>& counts, size_t first, double room) {
  if (first == counts.size()) return 0;
  int64_t least = std::numeric_limits<int64_t>::max() / 2;
  for (int length = 0; length < static_cast<int>(counts.size()); ++length) {
    const double share = std::ldexp(1., -length);
    if (share > room) continue;
    least = std::min(least, counts[first] * length + least_bits(counts, first + 1, room - share));
  }
  return least;
}

TEST(Entropy, OfKnownDistributions) {
  EXPECT_EQ(entropy_bits(std::vector<int64_t>{4, 4, 4, 4}), 2.);
  EXPECT_EQ(entropy_bits(std::vector<int64_t>{8, 4, 2, 2, 0}), 1.75);
  EXPECT_EQ(entropy_bits(std::vector<int64_t>{0, 9, 0}), 0.);
  EXPECT_EQ(entropy_bits(std::vector<int64_t>{0, 0}), 0.);
  EXPECT_NEAR(entropy_bits(std::vector<int64_t>{1, 3}), 0.8112781244591328, 1e-15);
}

TEST(Entropy, HuffmanLengthsByHand) {
  EXPECT_EQ(huffman_lengths(std::vector<int64_t>{8, 4, 2, 2}), (std::vector<int>{1, 2, 3, 3}));
  EXPECT_EQ(huffman_lengths(std::vector<int64_t>{5, 5, 5, 5}), (std::vector<int>{2, 2, 2, 2}));
  EXPECT_EQ(huffman_lengths(std::vector<int64_t>{0, 7, 0, 1}), (std::vector<int>{0, 1, 0, 1}));
  EXPECT_EQ(huffman_lengths(std::vector<int64_t>{0, 7, 0}), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(huffman_lengths(std::vector<int64_t>{}), (std::vector<int>{}));
  EXPECT_EQ(coded_bits({45, 13, 12, 16, 9, 5}), 224);  // Cormen et al., Introduction to Algorithms
}

TEST(Entropy, NoPrefixCodeIsShorter) {
  Sequence sequence(11);
  for (int round = 0; round < 40; ++round) {
    std::vector<int64_t> counts(static_cast<size_t>(1 + round % 6));
    for (int64_t& count : counts) count = 1 + sequence.next() % (round % 2 == 0 ? 6 : 1000);
    EXPECT_EQ(coded_bits(counts), least_bits(counts, 0, 1.)) << round;
  }
}

TEST(Entropy, AFibonacciHistogramHasTheLongestWords) {
  std::vector<int64_t> counts = {1, 1};
  while (counts.size() < 80) counts.push_back(counts[counts.size() - 2] + counts.back());
  const std::vector<int> lengths = huffman_lengths(counts);
  EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), 79);
  EXPECT_EQ(lengths.back(), 1);
}

TEST(Entropy, OfALayer) {
  QuantizedLinear q;
  q.scheme = integer_scheme(3, kAll, true, Dtype::kF16);
  q.N = 2;
  q.K = 8;
  q.codes = tensor_of(Dtype::kU8, {2, 8},
                      std::vector<uint8_t>{3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 2, 2, 7, 7});
  EXPECT_EQ(code_counts(q)[3], 8);
  EXPECT_EQ(code_counts(q)[7], 2);
  const CodeSizes sizes = code_sizes(q);
  EXPECT_EQ(sizes.entropy_bits, 1.75);
  EXPECT_EQ(sizes.huffman_bits, 16 * 7 / 4);
  EXPECT_EQ(sizes.huffman_table_bits, 8 * 8);
}

TEST(Entropy, CodesAreCountedOneByOne) {
  for (const int bits : {1, 2, 4, 5, 8}) {
    for (const int64_t K : {1, 7, 8, 29, 1200}) {
      const Scheme scheme = integer_scheme(bits, kAll, false, Dtype::kF16);
      const QuantizedLinear q = random_layer(scheme, K == 1200 ? 901 : 3, K);  // 1 << 20 and more
      std::array<int64_t, 256> expected{};
      for (const uint8_t code : q.codes.values<uint8_t>()) ++expected[code];
      EXPECT_EQ(code_counts(q), expected) << bits << " bits, " << K;
    }
  }
}

TEST(Entropy, AHuffmanCodeIsWithinOneBitOfTheEntropy) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 700, 1600);
  const auto counts = code_counts(q);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 700 * 1600);
  const CodeSizes sizes = code_sizes(q);
  const double bits = static_cast<double>(sizes.huffman_bits) / (700. * 1600.);
  EXPECT_LE(sizes.entropy_bits, bits);
  EXPECT_LT(bits, sizes.entropy_bits + 1.);
}

}  // namespace
}  // namespace nibble
