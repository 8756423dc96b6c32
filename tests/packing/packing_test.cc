// Every layout: bits used once, in bounds, round trip, and the fast path equal to what follows from
// `at`.
#include "formats/packing/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <random>
#include <type_traits>
#include <vector>

#include "formats/packing/awq.h"
#include "formats/packing/bit_stream.h"
#include "formats/packing/bitsandbytes.h"
#include "formats/packing/compressed_tensors.h"
#include "formats/packing/fragment.h"
#include "formats/packing/gguf.h"
#include "formats/packing/gptq.h"
#include "formats/packing/marlin.h"
#include "formats/packing/matrix.h"
#include "formats/packing/nibble.h"
#include "formats/packing/qserve.h"
#include "formats/packing/rows.h"
#include "formats/packing/tinychat.h"

namespace nibble {
namespace {

// Shapes a layout can hold: N and K multiples of these.
template <typename P, int kN = 1, int kK = 1>
struct Row {
  using Packing = P;
  static constexpr int64_t kRows = kN, kColumns = kK;
};

using AllPackings = ::testing::Types<
    Row<CompressedTensorsWeights<2>>, Row<CompressedTensorsWeights<3>>,
    Row<CompressedTensorsWeights<4>>, Row<CompressedTensorsWeights<8>>,
    Row<CompressedTensorsPaddedWeights<2>>, Row<CompressedTensorsPaddedWeights<3>>,
    Row<CompressedTensorsPaddedWeights<4>>, Row<CompressedTensorsPaddedWeights<8>>,
    Row<CompressedTensorsZeros<2>>, Row<CompressedTensorsZeros<3>>, Row<CompressedTensorsZeros<4>>,
    Row<CompressedTensorsZeros<8>>, Row<CompressedTensorsPaddedZeros<3>>,
    Row<GptqWeights<2>, 1, 16>, Row<GptqWeights<3>, 1, 32>, Row<GptqWeights<4>, 1, 8>,
    Row<GptqWeights<8>, 1, 4>, Row<GptqZeros<2>, 16>, Row<GptqZeros<3>, 32>, Row<GptqZeros<4>, 8>,
    Row<GptqZeros<8>, 4>, Row<AwqCodes, 8>, Row<TinychatCodes, 4, 64>, Row<MarlinCodes, 64, 16>,
    Row<QserveCodes, 32, 32>, Row<FragmentNibbles<true>, 64, 32>,
    Row<FragmentNibbles<false>, 64, 32>, Row<FragmentBytes, 64, 32>, Row<IntegerBytes, 64, 64>,
    Row<IntegerNibbles, 64, 64>, Row<BitsandbytesCodes>, Row<NibbleCodes<1>>, Row<NibbleCodes<2>>,
    Row<NibbleCodes<3>>, Row<NibbleCodes<4>>, Row<NibbleCodes<5>>, Row<NibbleCodes<6>>,
    Row<NibbleCodes<7>>, Row<NibbleCodes<8>>, Row<Rows<2>>, Row<Rows<3>>, Row<Rows<4>>,
    Row<Rows<8>>, Row<GgufCodes<GgufQ40>, 1, 32>, Row<GgufCodes<GgufQ41>, 1, 32>,
    Row<GgufCodes<GgufQ50>, 1, 32>, Row<GgufCodes<GgufQ51>, 1, 32>, Row<GgufCodes<GgufQ80>, 1, 32>,
    Row<GgufCodes<GgufMxfp4>, 1, 32>, Row<GgufCodes<GgufQ2K>, 1, 256>,
    Row<GgufCodes<GgufQ3K>, 1, 256>, Row<GgufCodes<GgufQ4K>, 1, 256>,
    Row<GgufCodes<GgufQ5K>, 1, 256>, Row<GgufCodes<GgufQ6K>, 1, 256>,
    Row<GgufCodes<GgufIq4Xs>, 1, 256>>;

struct ShapeNK {
  int64_t N, K;
};

// Around every boundary of the fast paths: words, groups of eight, tiles of 16 words and of 64
// lines.
template <typename R>
std::vector<ShapeNK> shapes() {
  std::vector<ShapeNK> result;
  for (const int64_t n : {1, 2, 3, 17, 33}) {
    for (const int64_t k : {1, 2, 5, 11, 33, 70}) {
      result.push_back({n * R::kRows, k * R::kColumns});
    }
  }
  result.push_back({19 * R::kRows, 97 * R::kColumns});
  result.push_back({1 * R::kRows, 1100 / R::kColumns * R::kColumns});
  return result;
}

template <typename P>
std::vector<uint8_t> random_codes(ShapeNK shape) {
  std::mt19937 random(7);
  std::vector<uint8_t> codes(static_cast<size_t>(shape.N * shape.K));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1u << P::kBits));
  return codes;
}

template <typename P>
std::vector<typename P::Word> pack_by_at(const std::vector<uint8_t>& codes, ShapeNK s) {
  std::vector<typename P::Word> words(static_cast<size_t>(P::words(s.N, s.K)));
  for (int64_t n = 0; n < s.N; ++n) {
    for (int64_t k = 0; k < s.K; ++k) {
      store_code<P>(words.data(), n, k, s.N, s.K, codes[static_cast<size_t>(n * s.K + k)]);
    }
  }
  return words;
}

template <typename R>
class Packings : public ::testing::Test {};

TYPED_TEST_SUITE(Packings, AllPackings);

TYPED_TEST(Packings, UseEveryBitAtMostOnceAndInBounds) {
  using P = typename TypeParam::Packing;
  for (const auto [N, K] : shapes<TypeParam>()) {
    std::vector<uint32_t> used(static_cast<size_t>(P::words(N, K)));
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) {
        const BitSlices slices = P::at(n, k, N, K);
        ASSERT_EQ(slices.low.width + slices.high.width, P::kBits);
        ASSERT_EQ(slices.low.lsb, 0);
        for (const BitSlice& slice : {slices.low, slices.high}) {
          if (slice.width == 0) continue;
          ASSERT_GE(slice.word, 0);
          ASSERT_LT(slice.word, P::words(N, K)) << N << " x " << K << " at " << n << ", " << k;
          ASSERT_LE(slice.shift + slice.width, kWordBits<P>);
          uint32_t& word = used[static_cast<size_t>(slice.word)];
          ASSERT_EQ(word & slice_mask(slice), 0u) << N << " x " << K << " at " << n << ", " << k;
          word |= slice_mask(slice);
        }
        if (slices.high.width > 0) {
          ASSERT_EQ(slices.high.lsb, slices.low.width);
        }
      }
    }
  }
}

TYPED_TEST(Packings, CodesReadBackOneByOne) {
  using P = typename TypeParam::Packing;
  for (const auto shape : shapes<TypeParam>()) {
    const auto codes = random_codes<P>(shape);
    const auto words = pack_by_at<P>(codes, shape);
    for (int64_t n = 0; n < shape.N; ++n) {
      for (int64_t k = 0; k < shape.K; ++k) {
        ASSERT_EQ(load_code<P>(words.data(), n, k, shape.N, shape.K),
                  codes[static_cast<size_t>(n * shape.K + k)])
            << shape.N << " x " << shape.K << " at " << n << ", " << k;
      }
    }
  }
}

TYPED_TEST(Packings, StoringACodeLeavesTheOthers) {
  using P = typename TypeParam::Packing;
  const ShapeNK shape{2 * TypeParam::kRows, 6 * TypeParam::kColumns};
  const auto codes = random_codes<P>(shape);
  auto words = pack_by_at<P>(codes, shape);
  auto expected = words;
  for (int64_t i = 0; i < std::ssize(codes); ++i) {
    const int64_t n = i / shape.K, k = i % shape.K;
    const BitSlices slices = P::at(n, k, shape.N, shape.K);
    for (const BitSlice& slice : {slices.low, slices.high}) {
      if (slice.width > 0) expected[slice.word] ^= static_cast<typename P::Word>(slice_mask(slice));
    }
    const auto other = static_cast<uint8_t>(codes[i] ^ ((1u << P::kBits) - 1));
    store_code<P>(words.data(), n, k, shape.N, shape.K, other);
    ASSERT_EQ(words, expected) << "code " << i;
  }
}

TYPED_TEST(Packings, WholeMatricesAgreeWithSingleCodes) {
  using P = typename TypeParam::Packing;
  for (const auto shape : shapes<TypeParam>()) {
    const auto codes = random_codes<P>(shape);
    const auto expected = pack_by_at<P>(codes, shape);
    std::vector<typename P::Word> words(expected.size());
    pack_rows<P>(codes.data(), shape.N, shape.K, 0, shape.N, words.data());
    ASSERT_EQ(words, expected) << shape.N << " x " << shape.K;
    std::vector<uint8_t> back(codes.size(), 0xFF);
    unpack_rows<P>(words.data(), shape.N, shape.K, 0, shape.N, back.data());
    ASSERT_EQ(back, codes) << shape.N << " x " << shape.K;
  }
}

TYPED_TEST(Packings, RangesOfRowsMakeTheWhole) {
  using P = typename TypeParam::Packing;
  constexpr int64_t multiple = row_multiple<P>();
  if (multiple == 0) GTEST_SKIP() << "rows share words";
  const ShapeNK shape{5 * std::max(multiple, TypeParam::kRows),
                      divide_up(32, TypeParam::kColumns) * TypeParam::kColumns};
  const auto codes = random_codes<P>(shape);
  std::vector<typename P::Word> words(static_cast<size_t>(P::words(shape.N, shape.K)));
  std::vector<uint8_t> back(codes.size(), 0xFF);
  for (int64_t first = 0; first < shape.N; first += 2 * multiple) {
    const int64_t last = std::min(first + 2 * multiple, shape.N);
    pack_rows<P>(codes.data(), shape.N, shape.K, first, last, words.data());
  }
  EXPECT_EQ(words, pack_by_at<P>(codes, shape));
  for (int64_t first = 0; first < shape.N; first += 2 * multiple) {
    const int64_t last = std::min(first + 2 * multiple, shape.N);
    unpack_rows<P>(words.data(), shape.N, shape.K, first, last, back.data());
  }
  EXPECT_EQ(back, codes);
}

// Large layouts must not fall to the path that goes code by code.
TEST(PackingPaths, WeightsOfEveryFormatWeWriteAreFast) {
  EXPECT_TRUE(is_row_stream<CompressedTensorsWeights<4>>());
  EXPECT_TRUE(is_row_stream<CompressedTensorsWeights<3>>());
  EXPECT_TRUE(is_row_stream<NibbleCodes<5>>());
  EXPECT_TRUE(is_transposed_row_stream<GptqWeights<3>>());
  EXPECT_TRUE(is_transposed_row_stream<GptqWeights<4>>());
  EXPECT_TRUE(packs_rows_into_words<AwqCodes>());
}

TEST(PackingPaths, TellLayoutsApart) {
  EXPECT_FALSE(is_row_stream<GptqWeights<4>>());
  EXPECT_FALSE(is_row_stream<CompressedTensorsPaddedWeights<3>>());
  EXPECT_FALSE(is_transposed_row_stream<AwqCodes>());
  EXPECT_FALSE(packs_rows_into_words<GptqWeights<4>>());
  EXPECT_FALSE(packs_rows_into_words<GptqZeros<3>>());
}

// Drawn in formats/gptq.md: value 10 has two bits in word 0 and one in word 1, value 21 one bit in
// word 1 and two in word 2.
TEST(GptqPacking, ThreeBitCodesStraddleWords) {
  const auto ten = GptqWeights<3>::at(0, 10, 1, 32);
  EXPECT_TRUE(same_slices(ten, {{0, 30, 2, 0}, {1, 0, 1, 2}}));
  const auto twenty_one = GptqWeights<3>::at(0, 21, 1, 32);
  EXPECT_TRUE(same_slices(twenty_one, {{1, 31, 1, 0}, {2, 0, 2, 1}}));
}

// Slices that are used at most once and as many as there are bits: every bit is used.
template <typename P>
void expect_full(int64_t N, int64_t K) {
  EXPECT_EQ(P::words(N, K) * kWordBits<P>, N * K * P::kBits);
  EXPECT_EQ(kTileWords<P> * kWordBits<P>, P::kTileRows * P::kTileColumns * P::kBits);
}

TEST(TiledPacking, LeavesNoBitUnused) {
  expect_full<TinychatCodes>(8, 192);
  expect_full<MarlinCodes>(128, 48);
  expect_full<QserveCodes>(64, 96);
  expect_full<FragmentNibbles<true>>(128, 96);
  expect_full<FragmentNibbles<false>>(128, 96);
  expect_full<FragmentBytes>(128, 96);
  expect_full<IntegerBytes>(128, 192);
  expect_full<IntegerNibbles>(128, 192);
}

// Both permutations of scales are bijections of their blocks.
TEST(TiledPacking, ScalesHavePlacesOfTheirOwn) {
  for (const auto place : {marlin_scale_place, marlin_channel_scale_place, qserve_scale_place}) {
    std::vector<int> used(192);
    for (int64_t n = 0; n < 192; ++n) ++used.at(static_cast<size_t>(place(n)));
    EXPECT_EQ(used, std::vector<int>(192, 1));
  }
}

TEST(AwqPacking, NibblesHoldOutputs02461357) {
  const int outputs[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int nibble = 0; nibble < 8; ++nibble) {
    EXPECT_EQ(AwqCodes::at(outputs[nibble], 0, 8, 1).low.shift, 4 * nibble);
  }
}

template <typename Block>
class GgufBlocks : public ::testing::Test {};
using AllBlocks = ::testing::Types<GgufQ40, GgufQ41, GgufQ50, GgufQ51, GgufQ80, GgufMxfp4, GgufQ2K,
                                   GgufQ3K, GgufQ4K, GgufQ5K, GgufQ6K, GgufIq4Xs>;
TYPED_TEST_SUITE(GgufBlocks, AllBlocks);

// Codes and parameters together: no bit twice, and none left over.
TYPED_TEST(GgufBlocks, UseEveryBitOnce) {
  std::vector<uint32_t> used(TypeParam::kBytes);
  const auto use = [&used](const BitSlices& slices) {
    for (const BitSlice& slice : {slices.low, slices.high}) {
      if (slice.width == 0) continue;
      ASSERT_LT(slice.word, TypeParam::kBytes);
      ASSERT_EQ(used[static_cast<size_t>(slice.word)] & slice_mask(slice), 0u) << slice.word;
      used[static_cast<size_t>(slice.word)] |= slice_mask(slice);
    }
  };
  const auto use_bytes = [&use](int first, int count) {
    for (int i = first; i < first + count; ++i) use({{i, 0, 8, 0}, {}});
  };
  for (int i = 0; i < TypeParam::kWeights; ++i) use(TypeParam::code(i));
  use_bytes(TypeParam::kScale, std::is_same_v<TypeParam, GgufMxfp4> ? 1 : 2);
  if (TypeParam::kMinimum != kNone) use_bytes(TypeParam::kMinimum, 2);
  if constexpr (TypeParam::kGroup < TypeParam::kWeights) {
    for (int j = 0; j < TypeParam::kWeights / TypeParam::kGroup; ++j) {
      use(TypeParam::scale(j));
      if constexpr (TypeParam::kMinimum != kNone) use(TypeParam::minimum(j));
    }
  }
  EXPECT_EQ(used, std::vector<uint32_t>(TypeParam::kBytes, 0xFF));
}

TYPED_TEST(GgufBlocks, WholeBlocksAgreeWithSingleCodes) {
  using P = GgufCodes<TypeParam>;
  const ShapeNK shape{1, TypeParam::kWeights};
  const auto codes = random_codes<P>(shape);
  std::vector<uint8_t> block(TypeParam::kBytes);
  pack_gguf_codes<TypeParam>(codes.data(), block.data());
  EXPECT_EQ(block, pack_by_at<P>(codes, shape));
  std::vector<uint8_t> back(codes.size(), 0xFF);
  unpack_gguf_codes<TypeParam>(block.data(), back.data());
  EXPECT_EQ(back, codes);
}

// join_eight and split_eight are usable at compile time, so their proof can be too.
static_assert(join_eight<4>(0x0807060504030201u) == 0x87654321u);
static_assert(split_eight<4>(0x87654321u) == 0x0807060504030201u);
static_assert(join_eight<3>(0x0706050403020100u) == 0b111'110'101'100'011'010'001'000u);
static_assert(split_eight<3>(join_eight<3>(0x0706050403020100u)) == 0x0706050403020100u);
static_assert(join_eight<7>(0x7F7F7F7F7F7F7F7Fu) == (uint64_t{1} << 56) - 1);

}  // namespace
}  // namespace nibble
