// The references here know nothing of the code under test: values come from sign, exponent and
// mantissa in double arithmetic, and codes from a search among all values of the type.
#include "src/tensor/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "src/tensor/convert_paths.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

enum class Specials { kIeee, kNanOnly, kFnuz };

// A type as its specification describes it.
struct Format {
  Dtype dtype;
  int exponent_bits;
  int mantissa_bits;
  int bias;
  Specials specials;
};

// IEEE 754 binary16; bfloat16; OCP OFP8 revision 1.0, table 1; ONNX "Float stored in 8 bits".
constexpr Format kFormats[] = {
    {Dtype::kF16, 5, 10, 15, Specials::kIeee},      {Dtype::kBF16, 8, 7, 127, Specials::kIeee},
    {Dtype::kF8E5M2, 5, 2, 15, Specials::kIeee},    {Dtype::kF8E4M3, 4, 3, 7, Specials::kNanOnly},
    {Dtype::kF8E4M3Fnuz, 4, 3, 8, Specials::kFnuz}, {Dtype::kF8E5M2Fnuz, 5, 2, 16, Specials::kFnuz},
};

uint32_t code_count(const Format& f) { return 1U << (1 + f.exponent_bits + f.mantissa_bits); }

double reference_value(const Format& f, uint32_t code) {
  const uint32_t sign = code >> (f.exponent_bits + f.mantissa_bits);
  const int exponent = static_cast<int>((code >> f.mantissa_bits) & ((1U << f.exponent_bits) - 1));
  const uint32_t mantissa = code & ((1U << f.mantissa_bits) - 1);
  const uint32_t all_ones = (1U << f.exponent_bits) - 1;
  const bool top = static_cast<uint32_t>(exponent) == all_ones;
  if (f.specials == Specials::kIeee && top) {
    return mantissa != 0 ? kNan : sign != 0 ? -kInfinity : kInfinity;
  }
  if (f.specials == Specials::kNanOnly && top && mantissa == (1U << f.mantissa_bits) - 1)
    return kNan;
  if (f.specials == Specials::kFnuz && code == code_count(f) / 2) return kNan;
  const double fraction = std::ldexp(mantissa, -f.mantissa_bits);
  const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - f.bias)
                                         : std::ldexp(1 + fraction, exponent - f.bias);
  return sign != 0 ? -magnitude : magnitude;
}

// Finite values of the positive codes; the index is the code.
std::vector<double> positive_values(const Format& f) {
  std::vector<double> values;
  for (uint32_t code = 0; code < code_count(f) / 2; ++code) {
    const double value = reference_value(f, code);
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

// What `value`, not NaN, is stored as: the nearest, of two the even code.
uint32_t reference_code(const Format& f, const std::vector<double>& values, double value) {
  const uint32_t sign = std::signbit(value) ? code_count(f) / 2 : 0;
  const double magnitude = std::abs(value);
  const auto largest = static_cast<uint32_t>(values.size() - 1);
  // The value that would follow the largest.
  const double beyond = values[largest] + (values[largest] - values[largest - 1]);
  const double last_middle = (values[largest] + beyond) / 2;
  const bool overflows = magnitude > last_middle || (magnitude == last_middle && largest % 2 != 0);
  if (overflows) return sign + (f.specials == Specials::kIeee ? largest + 1 : largest);
  const auto above = static_cast<uint32_t>(
      std::lower_bound(values.begin(), values.end(), magnitude) - values.begin());
  uint32_t code = std::min(above, largest);
  if (above > 0 && above <= largest) {
    const double to_above = values[above] - magnitude;
    const double to_below = magnitude - values[above - 1];
    if (to_below < to_above || (to_below == to_above && above % 2 != 0)) code = above - 1;
  }
  if (f.specials == Specials::kFnuz && code == 0) return 0;
  return sign + code;
}

// Every value, every middle between two, and the floats beside them, with both signs.
std::vector<float> boundary_floats(const Format& f) {
  const std::vector<double> values = positive_values(f);
  std::vector<float> floats;
  const auto add = [&](double x) {
    const auto value = static_cast<float>(x);
    for (const float near :
         {std::nextafterf(value, 0.0F), value, std::nextafterf(value, INFINITY)}) {
      floats.push_back(near);
      floats.push_back(-near);
    }
  };
  for (size_t i = 0; i < values.size(); ++i) {
    add(values[i]);
    if (i > 0) add((values[i - 1] + values[i]) / 2);
  }
  const double step = values.back() - values[values.size() - 2];
  add(values.back() + step / 2);
  add(values.back() + step);
  return floats;
}

std::vector<float> random_bits(size_t n) {
  std::mt19937 random(7);
  std::vector<float> floats(n);
  for (float& x : floats) x = std::bit_cast<float>(static_cast<uint32_t>(random()));
  return floats;
}

std::vector<float> special_floats() {
  std::vector<float> floats;
  for (const uint32_t bits :
       {0U, 1U, 0x007fffffU, 0x00800000U, 0x7f7fffffU, 0x7f800000U, 0x7f800001U, 0x7fbfffffU,
        0x7fc00000U, 0x7fffffffU, 0x00200000U, 0x003fffffU, 0x00400000U, 0x005fffffU, 0x00600000U,
        0x7effffffU, 0x7f000000U, 0x7f3fffffU, 0x7f400000U}) {
    floats.push_back(std::bit_cast<float>(bits));
    floats.push_back(std::bit_cast<float>(bits | 0x80000000U));
  }
  return floats;
}

std::vector<uint32_t> codes_of(const Format& f, const std::vector<float>& floats) {
  const size_t width = static_cast<size_t>(dtype_bits(f.dtype)) / 8;
  std::vector<std::byte> bytes(floats.size() * width);
  from_float(floats, f.dtype, bytes);
  std::vector<uint32_t> codes(floats.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    std::memcpy(&codes[i], bytes.data() + i * width, width);
  }
  return codes;
}

std::vector<float> decode_all(const Format& f) {
  std::vector<std::byte> bytes;
  for (uint32_t code = 0; code < code_count(f); ++code) {
    bytes.push_back(static_cast<std::byte>(code & 0xff));
    if (dtype_bits(f.dtype) == 16) bytes.push_back(static_cast<std::byte>(code >> 8));
  }
  std::vector<float> floats(code_count(f));
  to_float({f.dtype, {static_cast<int64_t>(floats.size())}, bytes}, floats);
  return floats;
}

class Conversion : public testing::TestWithParam<Format> {};

INSTANTIATE_TEST_SUITE_P(Types, Conversion, testing::ValuesIn(kFormats),
                         [](const auto& row) { return std::string(dtype_name(row.param.dtype)); });

TEST_P(Conversion, DecodesEveryCode) {
  const std::vector<float> floats = decode_all(GetParam());
  for (uint32_t code = 0; code < floats.size(); ++code) {
    const double expected = reference_value(GetParam(), code);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(floats[code])) << "code " << code << " is " << floats[code];
    } else {
      ASSERT_EQ(floats[code], expected) << "code " << code;
      ASSERT_EQ(std::signbit(floats[code]), std::signbit(expected)) << "code " << code;
    }
  }
}

TEST_P(Conversion, EncodesEveryValueBackToItsCode) {
  const std::vector<float> floats = decode_all(GetParam());
  const std::vector<uint32_t> codes = codes_of(GetParam(), floats);
  for (uint32_t code = 0; code < codes.size(); ++code) {
    if (std::isnan(floats[code])) {
      ASSERT_TRUE(std::isnan(reference_value(GetParam(), codes[code]))) << "code " << code;
    } else {
      ASSERT_EQ(codes[code], code);
    }
  }
}

TEST_P(Conversion, RoundsToNearestEvenAtEveryBoundary) {
  const Format& f = GetParam();
  const std::vector<double> values = positive_values(f);
  std::vector<float> floats = boundary_floats(f);
  for (const auto& more : {special_floats(), random_bits(200'000)}) {
    floats.insert(floats.end(), more.begin(), more.end());
  }
  const std::vector<uint32_t> codes = codes_of(f, floats);
  for (size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(floats[i])) {
      ASSERT_TRUE(std::isnan(reference_value(f, codes[i]))) << "bits of NaN became " << codes[i];
    } else {
      ASSERT_EQ(codes[i], reference_code(f, values, floats[i])) << "value " << floats[i];
    }
  }
}

TEST_P(Conversion, OneValueIsConvertedLikeAnArray) {
  const Format& f = GetParam();
  const std::vector<float> floats = random_bits(10'000);
  const std::vector<uint32_t> codes = codes_of(f, floats);
  for (size_t i = 0; i < floats.size(); ++i) {
    const uint32_t code = f.dtype == Dtype::kF16    ? float_to_f16(floats[i])
                          : f.dtype == Dtype::kBF16 ? float_to_bf16(floats[i])
                                                    : float_to_f8(floats[i], f.dtype);
    ASSERT_EQ(code, codes[i]) << "value " << floats[i];
  }
}

TEST_P(Conversion, CountsWhatRoundingLost) {
  const Format& f = GetParam();
  const std::vector<double> values = positive_values(f);
  std::vector<float> floats = boundary_floats(f);
  const std::vector<float> special = special_floats();
  floats.insert(floats.end(), special.begin(), special.end());
  const std::vector<uint32_t> codes = codes_of(f, floats);

  // Overflow is what would round to the value after the largest, if there were one.
  const double largest = values.back();
  const double last_middle = largest + (largest - values[values.size() - 2]) / 2;
  const bool largest_is_odd = values.size() % 2 == 0;
  RoundingLoss expected;
  for (size_t i = 0; i < floats.size(); ++i) {
    const double magnitude = std::abs(double{floats[i]});
    if (!std::isfinite(magnitude) || magnitude == 0) continue;
    if (magnitude > last_middle || (magnitude == last_middle && largest_is_odd)) {
      if (expected.overflowed++ == 0) expected.first_overflow = static_cast<int64_t>(i);
    }
    expected.flushed += reference_value(f, codes[i]) == 0 ? 1 : 0;
  }
  std::vector<std::byte> bytes(floats.size() * static_cast<size_t>(dtype_bits(f.dtype)) / 8);
  const RoundingLoss loss = from_float(floats, f.dtype, bytes);
  EXPECT_EQ(loss.overflowed, expected.overflowed);
  EXPECT_EQ(loss.first_overflow, expected.first_overflow);
  EXPECT_EQ(loss.flushed, expected.flushed);
  EXPECT_GT(expected.overflowed, 0);
  EXPECT_GT(expected.flushed, 0);
}

TEST_P(Conversion, KnowsItsSmallestAndLargestValue) {
  const std::vector<double> values = positive_values(GetParam());
  EXPECT_EQ(smallest_positive(GetParam().dtype), values[1]);
  EXPECT_EQ(largest_finite(GetParam().dtype), values.back());
  EXPECT_EQ(round_to(static_cast<float>(values.back()), GetParam().dtype), values.back());
}

// Every path gives the same bits for every type, also at lengths that do not fill a vector.
TEST(ConvertPaths, AgreeBitForBit) {
  std::vector<float> floats = special_floats();
  for (const Format& f : kFormats) {
    if (dtype_bits(f.dtype) == 16) continue;
    const std::vector<float> more = boundary_floats(f);
    floats.insert(floats.end(), more.begin(), more.end());
  }
  const std::vector<float> more = random_bits(200'003);
  floats.insert(floats.end(), more.begin(), more.end());
  std::vector<uint16_t> words(65536);
  std::iota(words.begin(), words.end(), uint16_t{0});
  std::vector<uint8_t> bytes(256 + 5);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  const auto n = static_cast<int64_t>(floats.size());

  for (const ConvertPath* path : convert_paths()) {
    SCOPED_TRACE(path->name);
    const auto compare = [&](auto function, const auto& in, auto result, auto... more_arguments) {
      std::vector<decltype(result)> got(in.size());
      std::vector<decltype(result)> expected(in.size());
      const auto count = static_cast<int64_t>(in.size());
      (path->*function)(in.data(), got.data(), count, more_arguments...);
      (kScalarConvert.*function)(in.data(), expected.data(), count, more_arguments...);
      EXPECT_EQ(0, std::memcmp(got.data(), expected.data(), got.size() * sizeof(result)));
    };
    compare(&ConvertPath::f16_to_float, words, 0.0F);
    compare(&ConvertPath::bf16_to_float, words, 0.0F);
    compare(&ConvertPath::float_to_f16, floats, uint16_t{0});
    compare(&ConvertPath::float_to_bf16, floats, uint16_t{0});
    compare(&ConvertPath::float_to_e8m0, floats, uint8_t{0});
    for (const Format& f : kFormats) {
      if (dtype_bits(f.dtype) == 8) {
        compare(&ConvertPath::f8_to_float, bytes, 0.0F, f8_rule(f.dtype));
        compare(&ConvertPath::float_to_f8, floats, uint8_t{0}, f8_rule(f.dtype));
      }
    }
    for (const LossBounds bounds :
         {LossBounds{0x33000000, 0x477ff000}, LossBounds{0, 0x7f7f8000}}) {
      const LossCount got = path->count_loss(floats.data(), n, bounds);
      const LossCount expected = kScalarConvert.count_loss(floats.data(), n, bounds);
      EXPECT_EQ(got.flushed, expected.flushed);
      EXPECT_EQ(got.overflowed, expected.overflowed);
    }
  }
}

TEST(ConvertPaths, LeaveWhatIsBeyondTheEndAlone) {
  const std::vector<float> floats = random_bits(70);
  for (const ConvertPath* path : convert_paths()) {
    for (int64_t n = 0; n < 70; ++n) {
      std::vector<uint16_t> words(71, 0x1234);
      path->float_to_bf16(floats.data(), words.data(), n);
      EXPECT_EQ(words[static_cast<size_t>(n)], 0x1234) << path->name << " n " << n;
      std::vector<uint8_t> bytes(71, 0x12);
      path->float_to_f8(floats.data(), bytes.data(), n, f8_rule(Dtype::kF8E4M3));
      EXPECT_EQ(bytes[static_cast<size_t>(n)], 0x12) << path->name << " n " << n;
    }
  }
}

TEST(E8M0, DecodesPowersOfTwo) {
  for (int code = 0; code < 255; ++code) {
    ASSERT_EQ(f8_to_float(static_cast<uint8_t>(code), Dtype::kF8E8M0), std::ldexp(1.0, code - 127));
  }
  EXPECT_TRUE(std::isnan(f8_to_float(255, Dtype::kF8E8M0)));
  std::vector<uint8_t> codes(256);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  std::vector<float> floats(256);
  to_float({Dtype::kF8E8M0, {256}, std::as_bytes(std::span(codes))}, floats);
  for (int code = 0; code < 255; ++code) {
    ASSERT_EQ(floats[static_cast<size_t>(code)], std::ldexp(1.0, code - 127));
  }
  EXPECT_TRUE(std::isnan(floats[255]));
}

TEST(E8M0, RoundsToTheNearestPowerAndTheMiddleUp) {
  for (int code = 0; code < 254; ++code) {
    const auto power = static_cast<float>(std::ldexp(1.0, code - 127));
    const float middle = power * 1.5F;
    ASSERT_EQ(float_to_f8(power, Dtype::kF8E8M0), code);
    ASSERT_EQ(float_to_f8(std::nextafterf(middle, 0), Dtype::kF8E8M0), code);
    ASSERT_EQ(float_to_f8(middle, Dtype::kF8E8M0), code + 1);
  }
  EXPECT_EQ(float_to_f8(0x1.7ffffep127F, Dtype::kF8E8M0), 254);
}

TEST(E8M0, SaturatesAndCountsIt) {
  const std::vector<float> floats = {
      0.0F,  -0.0F,      1e-45F, 0x1p-127F,
      -1.0F, 0x1.8p127F, 1.0F,   std::numeric_limits<float>::infinity(),
      NAN};
  std::vector<std::byte> codes(floats.size());
  const RoundingLoss loss = from_float(floats, Dtype::kF8E8M0, codes);
  const std::vector<int> expected = {0, 0, 0, 0, 0, 254, 127, 254, 255};
  for (size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(static_cast<int>(codes[i]), expected[i]);
  EXPECT_EQ(loss.overflowed, 2);  // -1 and 1.5 * 2^127
  EXPECT_EQ(loss.first_overflow, 4);
  EXPECT_EQ(loss.flushed, 0);
}

// Longer than the parts into which threads cut the work.
TEST(Convert, FindsTheFirstOverflowOfALongArray) {
  std::vector<float> floats(1'000'003, 1.0F);
  for (const size_t i : {size_t{999'999}, size_t{700'001}, size_t{700'002}}) floats[i] = 1e6F;
  floats[12] = 1e-30F;
  floats[900'000] = -1e-30F;
  std::vector<std::byte> bytes(floats.size() * 2);
  const RoundingLoss loss = from_float(floats, Dtype::kF16, bytes);
  EXPECT_EQ(loss.overflowed, 3);
  EXPECT_EQ(loss.first_overflow, 700'001);
  EXPECT_EQ(loss.flushed, 2);
}

TEST(Convert, LongArraysAreConvertedLikeShortOnes) {
  const std::vector<float> floats = random_bits(600'001);
  std::vector<uint16_t> whole(floats.size());
  from_float(floats, Dtype::kF16, std::as_writable_bytes(std::span(whole)));
  std::vector<float> back(floats.size());
  to_float({Dtype::kF16, {600'001}, std::as_bytes(std::span(whole))}, back);
  for (size_t i = 0; i < floats.size(); ++i) {
    ASSERT_EQ(whole[i], float_to_f16(floats[i])) << i;
    ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), std::bit_cast<uint32_t>(f16_to_float(whole[i])));
  }
}

TEST(Convert, WideTypesKeepEveryFloat) {
  const std::vector<float> floats = {1.5F, -0.0F, 1e-45F, 3e38F};
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF64}) {
    const Tensor stored = Tensor::allocate(dtype, {4});
    Tensor copy = stored;
    const RoundingLoss loss = from_float(floats, dtype, copy.mutable_bytes());
    std::vector<float> back(4);
    to_float(stored.view(), back);
    EXPECT_EQ(back, floats);
    EXPECT_EQ(loss.overflowed + loss.flushed, 0);
  }
}

TEST(Convert, DoublesAreRoundedOnce) {
  const std::vector<double> doubles = {1.0 + 0x1p-24, 1.0 + 0x1p-24 + 0x1p-50, 1e-60};
  std::vector<float> floats(3);
  to_float({Dtype::kF64, {3}, std::as_bytes(std::span(doubles))}, floats);
  EXPECT_EQ(floats, (std::vector<float>{1.0F, 1.0F + 0x1p-23F, 0.0F}));
}

TEST(Convert, RefusesTypesThatAreNotFloats) {
  std::vector<float> floats(4);
  std::vector<std::byte> bytes(16);
  EXPECT_THROW(to_float({Dtype::kI32, {4}, bytes}, floats), Error);
  EXPECT_THROW(from_float(floats, Dtype::kU8, std::span(bytes).first(4)), Error);
  EXPECT_THROW(round_to(1, Dtype::kF4), Error);
}

TEST(Convert, RefusesRoomOfAnotherSize) {
  std::vector<float> floats(5);
  std::vector<std::byte> bytes(16);
  EXPECT_THROW(to_float({Dtype::kF32, {4}, bytes}, floats), Error);
  EXPECT_THROW(from_float(floats, Dtype::kF32, bytes), Error);
}

}  // namespace
}  // namespace nibble
