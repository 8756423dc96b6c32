// The peers' rules against the peers: tests/golden/range_rules.json, made by
// tools/golden/range_rules.py.
#include "src/quantized/range_rule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/quantized/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

constexpr int64_t kN = 8;
constexpr int64_t kK = 64;

// The matrix that tools/golden/rtn.py describes.
Matrix golden_matrix() {
  Matrix W(kN, kK);
  Sequence sequence(12345);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      W(n, k) = sequence.uniform() * std::ldexp(1.F, -static_cast<int>(n % 4));
    }
  }
  W.row(1) = W.row(1).cwiseAbs();
  W.row(2) = -W.row(2).cwiseAbs();
  W.row(3).setZero();
  W.row(4) *= 0x1p-24F;
  W.row(5) *= 0x1p-14F;
  for (int64_t k = 0; k < kK; ++k) W(6, k) = static_cast<float>((k * 7 % 31) - 15) / 2.F;
  return W;
}

std::vector<uint8_t> bytes_of(const nlohmann::json& hexadecimal) {
  const std::string text = hexadecimal.get<std::string>();
  std::vector<uint8_t> bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

std::vector<uint8_t> bytes_of(const Tensor& tensor) {
  std::vector<uint8_t> bytes;
  for (const std::byte byte : tensor.bytes()) bytes.push_back(static_cast<uint8_t>(byte));
  return bytes;
}

std::vector<float> floats_of(const nlohmann::json& hexadecimal, Dtype dtype) {
  const std::vector<uint8_t> bytes = bytes_of(hexadecimal);
  const auto count = static_cast<int64_t>(bytes.size() * 8) / dtype_bits(dtype);
  const Tensor tensor = tensor_of(dtype, {count}, bytes);
  std::vector<float> values(static_cast<size_t>(count));
  to_float(tensor.view(), values);
  return values;
}

void expect_peer(const nlohmann::json& row) {
  const std::string name = row["rule"].get<std::string>();
  const Dtype type = *dtype_from_name(row["scale_type"].get<std::string>());
  const bool symmetric = row["symmetric"].get<bool>();
  SCOPED_TRACE(name + " at " + row["bits"].dump() + (symmetric ? " symmetric" : " asymmetric"));
  Matrix W = golden_matrix();
  if (name == "awq") W = W.unaryExpr([](float w) { return round_to(w, Dtype::kF16); });
  if (name == "q4_0") W.row(4) *= 0x1p24F;
  const RoundedLinear rounded = quantize_to_nearest(
      W, integer_scheme(row["bits"].get<int>(), 32, symmetric, type), range_rule(name), {}, "w");
  ASSERT_NO_THROW(check(rounded.q, "w"));
  EXPECT_EQ(bytes_of(rounded.q.scale.values), bytes_of(row["scales"]));
  if (!symmetric) {
    EXPECT_EQ(bytes_of(rounded.q.zero.values), bytes_of(row["zeros"]));
  }
  if (row.contains("codes")) {
    EXPECT_EQ(bytes_of(rounded.q.codes), bytes_of(row["codes"]));
  }
  // The peer's weights are in F16 where its scales are, except gguf's.
  const Dtype weight_type = name == "awq" ? Dtype::kF16 : Dtype::kF32;
  const std::vector<float> expected = floats_of(row["weights"], weight_type);
  const Matrix weights = dequantize(rounded.q);
  ASSERT_EQ(static_cast<int64_t>(expected.size()), weights.size());
  for (int64_t i = 0; i < weights.size(); ++i) {
    ASSERT_EQ(round_to(weights.data()[i], weight_type), expected[static_cast<size_t>(i)])
        << "row " << i / kK << ", column " << i % kK;
  }
}

TEST(RangeRule, PeersGetTheirOwnScalesZerosAndWeights) {
  const auto file = nlohmann::json::parse(
      read_file(own_test_data().parent_path() / "golden" / "range_rules.json"));
  ASSERT_EQ(file["cases"].size(), 11U);
  for (const auto& row : file["cases"]) expect_peer(row);
}

TEST(RangeRule, EveryRowIsDescribedAndFitsEveryBitWidth) {
  std::set<std::string> names;
  const Matrix W = golden_matrix();
  for (const RangeRule& rule : range_rules()) {
    EXPECT_TRUE(names.emplace(rule.name).second);
    EXPECT_FALSE(rule.summary.empty());
    EXPECT_FALSE(rule.source.empty());
    for (int bits = 2; bits <= 8; ++bits) {
      for (const bool symmetric : {true, false}) {
        if (!symmetric && rule.zero == nullptr) continue;
        const Scheme scheme = integer_scheme(bits, 24, symmetric, Dtype::kF16);
        const RoundedLinear rounded = quantize_to_nearest(W, scheme, rule, {}, "w");
        EXPECT_NO_THROW(check(rounded.q, "w")) << rule.name;
      }
    }
  }
  EXPECT_EQ(range_rules().front().name, "nibble");
}

TEST(RangeRule, UnknownNamesGetTheNearest) {
  try {
    range_rule("gtpq");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no range rule 'gtpq' (did you mean 'gptq'?)");
  }
}

TEST(RangeRule, SymmetricRulesRefuseZeroPoints) {
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  EXPECT_THROW(quantize_to_nearest(golden_matrix(), scheme, range_rule("q4_0"), {}, "w"), Error);
}

TEST(RangeRule, ParametersAloneThenCodesAreTheSameAsBothAtOnce) {
  const Matrix W = golden_matrix();
  for (const bool symmetric : {true, false}) {
    const Scheme scheme = integer_scheme(4, 24, symmetric, Dtype::kF16);
    const RoundedLinear once = quantize_to_nearest(W, scheme, range_rule("nibble"), {}, "w");
    ScaleRounding rounding;
    QuantizedLinear q = fit_parameters(W, scheme, range_rule("nibble"), {}, "w", &rounding);
    EXPECT_TRUE(std::all_of(q.codes.bytes().begin(), q.codes.bytes().end(),
                            [](std::byte code) { return code == std::byte{0}; }));
    round_to_nearest(W, q);
    EXPECT_EQ(fingerprint(q), fingerprint(once.q));
    EXPECT_EQ(rounding.raised_to_smallest, once.rounding.raised_to_smallest);
    EXPECT_GT(rounding.raised_to_smallest, 0);
  }
}

TEST(RangeRule, ZeroScalesAreRaisedAndCounted) {
  // Row 4 is below 2^-24: six blocks of 24 and 16 columns in rows of three.
  const Matrix W = golden_matrix();
  const RoundedLinear rounded = quantize_to_nearest(W, integer_scheme(4, 24, true, Dtype::kF16),
                                                    range_rule("nibble"), {}, "w");
  const auto scales = rounded.q.scale.values.values<uint16_t>();
  EXPECT_EQ(rounded.rounding.raised_to_smallest, 3);
  for (size_t g = 12; g < 15; ++g) EXPECT_EQ(scales[g], 1) << g;
  for (size_t g = 9; g < 12; ++g) EXPECT_EQ(scales[g], 0x3c00) << g;  // all zero: 1
}

// The smallest distance of a weight to any that its codes can mean, by trying them all.
void expect_nearest(const Matrix& W, const QuantizedLinear& q) {
  const Matrix got = dequantize(q);
  QuantizedLinear other = q;
  for (int code = 0; code < 1 << q.scheme.grid.bits; ++code) {
    const std::vector<uint8_t> same(static_cast<size_t>(W.size()), static_cast<uint8_t>(code));
    other.codes = tensor_of(Dtype::kU8, {W.rows(), W.cols()}, same);
    const Matrix tried = dequantize(other);
    for (int64_t i = 0; i < W.size(); ++i) {
      ASSERT_LE(std::fabs(W.data()[i] - got.data()[i]), std::fabs(W.data()[i] - tried.data()[i]))
          << describe(q.scheme) << " at " << i << ", code " << code;
    }
  }
}

TEST(RangeRule, OtherLevelsTakeTheNearestWeight) {
  Sequence sequence(2);
  const Matrix W = Matrix::NullaryExpr(4, 40, [&] { return sequence.uniform(); });
  Scheme nf4;
  nf4.grid = {.kind = Grid::Kind::kTable, .name = "nf4", .table = nf4_table()};
  nf4.blocking = {.rows = 1, .columns = 64, .flattened = true};
  nf4.scale = parameter(Dtype::kF16, 16);
  QuantizedLinear q = random_layer(nf4, 4, 40);
  round_to_nearest(W, q);
  expect_nearest(W, q);

  Scheme with_minimum = integer_scheme(3, 16, true, Dtype::kF16);
  with_minimum.minimum = parameter(Dtype::kF16, 16);
  q = random_layer(with_minimum, 4, 40);
  q.minimum.values = f16_tensor({12}, std::vector<float>(12, -0.3F));
  round_to_nearest(W, q);
  expect_nearest(W, q);

  Scheme float_zero = integer_scheme(3, 16, false, Dtype::kF16);
  float_zero.zero = parameter(Dtype::kF16, 16);
  q = random_layer(integer_scheme(3, 16, true, Dtype::kF16), 4, 40);
  q.scheme = float_zero;
  q.zero.values = f16_tensor({12}, std::vector<float>(12, 3.3F));
  round_to_nearest(W, q);
  expect_nearest(W, q);

  Scheme books;
  books.grid = {.kind = Grid::Kind::kCodebook, .bits = 2};
  q = random_layer(books, 4, 40);
  q.codebooks = f16_tensor({4, 4}, {-1.F, -.3F, .2F, .8F, -.9F, -.2F, .1F, 1.F,  //
                                    -.8F, -.1F, .3F, .9F, -.7F, .0F, .4F, .7F});
  round_to_nearest(W, q);
  expect_nearest(W, q);
}

TEST(RangeRule, OtherSchemesAreNotFitted) {
  const Matrix W = golden_matrix();
  const RangeRule& rule = range_rule("nibble");
  Scheme scheme = integer_scheme(4, 32, true, Dtype::kF16);
  scheme.scale->second = SecondLevel{};
  EXPECT_THROW(fit_parameters(W, scheme, rule, {}, "w", nullptr), Error);
  scheme = integer_scheme(4, 32, true, Dtype::kF16);
  scheme.minimum = parameter(Dtype::kF16, 16);
  EXPECT_THROW(fit_parameters(W, scheme, rule, {}, "w", nullptr), Error);
  scheme = integer_scheme(4, 32, false, Dtype::kF16);
  scheme.zero->type = Dtype::kF16;
  EXPECT_THROW(fit_parameters(W, scheme, rule, {}, "w", nullptr), Error);
  scheme = integer_scheme(4, 32, true, Dtype::kF16);
  EXPECT_THROW(fit_parameters(W, scheme, rule, {0, 1}, "w", nullptr), Error);
  EXPECT_THROW(fit_parameters(Matrix(0, 0), scheme, rule, {}, "w", nullptr), Error);
}

}  // namespace
}  // namespace nibble
