// What a QuantizedLinear can hold: each scheme is built by hand from stored numbers, and
// dequantize() is compared with an expression written here on its own, or with the values of
// another program (NIBBLE_TEST_DATA/golden, layouts in its README.md).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/quantized/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

// A golden file, read from its start.
class Blob {
 public:
  explicit Blob(const std::filesystem::path& path) : bytes_(read_file(path)) {}
  template <typename T>
  T next() {
    return values<T>(1)[0];
  }
  template <typename T>
  std::vector<T> values(size_t count) {
    std::vector<T> result(count);
    if (at_ + count * sizeof(T) > bytes_.size()) throw std::runtime_error("golden file too short");
    std::memcpy(result.data(), bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return result;
  }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

// Every weight rounded once to BF16, against `expected`.
void expect_bf16(const QuantizedLinear& q, std::span<const uint16_t> expected) {
  ASSERT_NO_THROW(check(q, "layer"));
  const Matrix W = dequantize(q);
  ASSERT_LE(W.size(), static_cast<int64_t>(expected.size()));
  for (int64_t i = 0; i < W.size(); ++i) {
    ASSERT_EQ(float_to_bf16(W.data()[i]), expected[static_cast<size_t>(i)]) << "weight " << i;
  }
}

// GGUF blocks of 256 weights: id, elements, lengths, blocks, BF16 values.
struct GgufBlocks {
  explicit GgufBlocks(const std::string& name, uint32_t type, size_t block_bytes)
      : file(test_data() / "golden" / "gguf" / name) {
    EXPECT_EQ(file.next<uint32_t>(), type);
    weights = file.next<uint32_t>();
    const auto raw = file.next<uint32_t>();
    file.next<uint32_t>();
    EXPECT_EQ(raw, weights / 256 * block_bytes);
    bytes = file.values<uint8_t>(raw);
    expected = file.values<uint16_t>(weights);
  }
  Blob file;
  size_t weights = 0;
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> expected;
};

constexpr int64_t kColumns = 512;  // two super-blocks a row

uint16_t half_at(const uint8_t* bytes) { return static_cast<uint16_t>(bytes[0] | bytes[1] << 8); }

TEST(QuantizedLinear, HoldsQ4K) {
  NIBBLE_NEEDS_TEST_DATA();
  const GgufBlocks golden("smollm2_q4_k.bin", 12, 144);
  std::vector<uint8_t> codes(golden.weights);
  std::vector<uint8_t> scales;
  std::vector<uint8_t> minimums;
  std::vector<uint16_t> d;
  std::vector<uint16_t> minus_dmin;
  for (size_t block = 0; block < golden.weights / 256; ++block) {
    const uint8_t* raw = golden.bytes.data() + block * 144;  // d, dmin, sc[12], qs[128]
    d.push_back(half_at(raw));
    minus_dmin.push_back(half_at(raw + 2) ^ 0x8000);
    const uint8_t* sc = raw + 4;
    for (int j = 0; j < 8; ++j) {
      const bool low = j < 4;
      scales.push_back(
          static_cast<uint8_t>(low ? sc[j] & 63 : (sc[j + 4] & 15) | sc[j - 4] >> 6 << 4));
      minimums.push_back(
          static_cast<uint8_t>(low ? sc[j + 4] & 63 : sc[j + 4] >> 4 | sc[j] >> 6 << 4));
    }
    for (int i = 0; i < 256; ++i) {
      const int byte = raw[16 + 32 * (i / 64) + i % 32];
      codes[block * 256 + static_cast<size_t>(i)] =
          static_cast<uint8_t>(i / 32 % 2 == 0 ? byte & 15 : byte >> 4);
    }
  }
  QuantizedLinear q;
  q.N = static_cast<int64_t>(golden.weights) / kColumns;
  q.K = kColumns;
  q.scheme.grid.bits = 4;
  q.scheme.blocking = {.rows = 1, .columns = 32};
  const SecondLevel halves = {.type = Dtype::kF16, .block = 8};
  q.scheme.scale = second_level(parameter(Dtype::kU8, 6), halves);
  q.scheme.minimum = q.scheme.scale;
  q.codes = tensor_of(Dtype::kU8, {q.N, q.K}, codes);
  q.scale.values = tensor_of(Dtype::kU8, {q.N, q.K / 32}, scales);
  q.scale.second = tensor_of(Dtype::kF16, {q.N, q.K / 256}, d);
  q.minimum.values = tensor_of(Dtype::kU8, {q.N, q.K / 32}, minimums);
  q.minimum.second = tensor_of(Dtype::kF16, {q.N, q.K / 256}, minus_dmin);
  expect_bf16(q, golden.expected);
  EXPECT_EQ(bits_per_weight(q.scheme, q.N, q.K), 144. * 8. / 256.);
}

TEST(QuantizedLinear, HoldsQ3K) {
  NIBBLE_NEEDS_TEST_DATA();
  const GgufBlocks golden("smollm2_q3_k.bin", 11, 110);
  std::vector<uint8_t> codes(golden.weights);
  std::vector<int8_t> scales;
  std::vector<uint16_t> d;
  for (size_t block = 0; block < golden.weights / 256; ++block) {
    const uint8_t* raw = golden.bytes.data() + block * 110;  // hm[32], qs[64], sc[12], d
    const uint8_t* sc = raw + 96;
    d.push_back(half_at(raw + 108));
    for (int j = 0; j < 16; ++j) {
      const int low = sc[j % 8] >> (4 * (j / 8)) & 15;
      const int high = sc[8 + j % 4] >> (2 * (j / 4)) & 3;
      scales.push_back(static_cast<int8_t>((low | high << 4) - 32));
    }
    for (int i = 0; i < 256; ++i) {
      const int low = raw[32 + 32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
      const int high = raw[i % 32] >> (i / 32) & 1;  // level = low - (high ? 0 : 4)
      codes[block * 256 + static_cast<size_t>(i)] = static_cast<uint8_t>(low | high << 2);
    }
  }
  QuantizedLinear q;
  q.N = static_cast<int64_t>(golden.weights) / kColumns;
  q.K = kColumns;
  q.scheme.grid = {.kind = Grid::Kind::kInteger, .bits = 3, .lowest = -4};
  q.scheme.blocking = {.rows = 1, .columns = 16};
  q.scheme.scale = second_level(parameter(Dtype::kI8, 6), {.type = Dtype::kF16, .block = 16});
  q.codes = tensor_of(Dtype::kU8, {q.N, q.K}, codes);
  q.scale.values = tensor_of(Dtype::kI8, {q.N, q.K / 16}, scales);
  q.scale.second = tensor_of(Dtype::kF16, {q.N, q.K / 256}, d);
  expect_bf16(q, golden.expected);
  EXPECT_EQ(bits_per_weight(q.scheme, q.N, q.K), 110. * 8. / 256.);
}

// The bitsandbytes file as N x K, of which the last weights may be left out.
void expect_nf4(int64_t N, int64_t K) {
  Blob file(test_data() / "golden" / "bitsandbytes" / "llama_1b_nf4_double_quant.bin");
  ASSERT_EQ(file.next<uint32_t>(), 2U);
  const auto weights = file.next<uint32_t>();
  ASSERT_EQ(file.next<uint32_t>(), 64U);
  ASSERT_LE(N * K, static_cast<int64_t>(weights));
  const auto lengths = file.values<uint32_t>(6);
  QuantizedLinear q;
  q.N = N;
  q.K = K;
  q.scale.offset = file.next<float>();
  const auto packed = file.values<uint8_t>(lengths[0]);
  auto absmax = file.values<uint8_t>(lengths[1]);
  q.scheme.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "nf4"};
  q.scheme.grid.table = file.values<float>(lengths[2] / 4);
  const auto nested_absmax = file.values<float>(lengths[3] / 4);
  const auto nested_map = file.values<float>(lengths[4] / 4);
  const auto expected = file.values<uint16_t>(lengths[5] / 2);
  EXPECT_EQ(q.scheme.grid.table, nf4_table());

  std::vector<uint8_t> codes;
  for (size_t i = 0; i < static_cast<size_t>(N * K); ++i) {
    codes.push_back(static_cast<uint8_t>(i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15));
  }
  q.scheme.blocking = {.rows = 1, .columns = 64, .flattened = true};
  const int64_t blocks = (N * K + 63) / 64;
  absmax.resize(static_cast<size_t>(blocks));
  q.scheme.scale = second_level(parameter(Dtype::kU8, 8),
                                {.type = Dtype::kF32, .block = 256, .has_offset = true});
  q.scheme.scale->table = nested_map;
  q.codes = tensor_of(Dtype::kU8, {N, K}, codes);
  q.scale.values = tensor_of(Dtype::kU8, {blocks}, absmax);
  q.scale.second = f32_tensor({static_cast<int64_t>(nested_absmax.size())}, nested_absmax);
  expect_bf16(q, expected);
}

TEST(QuantizedLinear, HoldsDoubleQuantizedNf4WithBlocksAcrossRows) {
  NIBBLE_NEEDS_TEST_DATA();
  expect_nf4(64, 64);
  expect_nf4(40, 100);  // blocks cross row ends, the last has 32 weights
  expect_nf4(3, 1000);
}

TEST(QuantizedLinear, HoldsInt4InGroupsOf128) {
  // 2 x 256: scales 0.5, 0.25, 2, 1 / 64; asymmetric with zeros 3, 0, 15, 8.
  std::vector<uint8_t> codes;
  for (int i = 0; i < 512; ++i) codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  const std::vector<float> scales = {0.5F, 0.25F, 2.F, 0.015625F};
  const std::vector<uint8_t> zeros = {3, 0, 15, 8};
  for (const bool symmetric : {true, false}) {
    QuantizedLinear q;
    q.scheme = integer_scheme(4, 128, symmetric, Dtype::kF16);
    q.N = 2;
    q.K = 256;
    q.codes = tensor_of(Dtype::kU8, {2, 256}, codes);
    q.scale.values = f16_tensor({2, 2}, scales);
    if (!symmetric) q.zero.values = tensor_of(Dtype::kU8, {2, 2}, zeros);
    ASSERT_NO_THROW(check(q, "layer"));
    const Matrix W = dequantize(q);
    for (int i = 0; i < 512; ++i) {
      const auto group = static_cast<size_t>(i / 128);
      const int zero = symmetric ? 8 : zeros[group];
      EXPECT_EQ(W.data()[i], static_cast<float>(i * 7 % 16 - zero) * scales[group]) << i;
    }
  }
}

TEST(QuantizedLinear, HoldsARaggedLastGroup) {
  // 2 x 70 in groups of 32: columns 64..69 are the third group.
  QuantizedLinear q;
  q.scheme = integer_scheme(3, 32, true, Dtype::kBF16);
  q.N = 2;
  q.K = 70;
  q.codes = tensor_of(Dtype::kU8, {2, 70}, std::vector<uint8_t>(140, 7));                 // level 3
  const std::vector<uint16_t> scales = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0};  // 1..6
  q.scale.values = tensor_of(Dtype::kBF16, {2, 3}, scales);
  ASSERT_NO_THROW(check(q, "layer"));
  const Matrix W = dequantize(q);
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t k = 0; k < 70; ++k) {
      const float scale = static_cast<float>(3 * n + (k < 32 ? 1 : k < 64 ? 2 : 3));
      EXPECT_EQ(W(n, k), 3.F * scale) << n << " " << k;
    }
  }
}

// E4M3 by its definition (OCP 8-bit floating point): sign, 4 bits of exponent, bias 7, 3 of
// mantissa.
float e4m3(int bits) {
  const int exponent = bits >> 3 & 15;
  const float mantissa = static_cast<float>(bits & 7) / 8.F;
  const float magnitude =
      exponent == 0 ? std::ldexp(mantissa, -6) : std::ldexp(1.F + mantissa, exponent - 7);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

TEST(QuantizedLinear, HoldsNvfp4) {
  // compressed-tensors: W = E2M1 * (local / global); ModelOpt: W = E2M1 * (local * global).
  const std::vector<float> e2m1 = {0.F, .5F, 1.F, 1.5F, 2.F, 3.F, 4.F, 6.F};
  std::vector<uint8_t> codes;
  std::vector<uint8_t> local;
  Sequence sequence(21);
  for (int i = 0; i < 4 * 48; ++i) codes.push_back(static_cast<uint8_t>(sequence.next() % 16));
  for (int i = 0; i < 4 * 3; ++i) local.push_back(static_cast<uint8_t>(sequence.next() % 0x7f));
  for (const bool divides : {true, false}) {
    const float global = divides ? 2688.F / 0.37F : 0.37F / 2688.F;
    QuantizedLinear q;
    q.N = 4;
    q.K = 48;
    q.scheme.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "e2m1", .table = e2m1_table()};
    q.scheme.blocking = {.rows = 1, .columns = 16};
    q.scheme.scale = second_level(parameter(Dtype::kF8E4M3, 8),
                                  {.type = Dtype::kF32, .block = kAll, .divides = divides});
    q.codes = tensor_of(Dtype::kU8, {4, 48}, codes);
    q.scale.values = tensor_of(Dtype::kF8E4M3, {4, 3}, local);
    q.scale.second = f32_tensor({1}, {global});
    ASSERT_NO_THROW(check(q, "layer"));
    const Matrix W = dequantize(q);
    for (size_t i = 0; i < codes.size(); ++i) {
      const float magnitude = e2m1[codes[i] & 7];
      const float scale = e4m3(local[i / 16]);
      const float combined = divides ? scale / global : scale * global;
      const float expected = (codes[i] & 8) != 0 ? -magnitude * combined : magnitude * combined;
      EXPECT_EQ(W.data()[i], expected) << i;
      EXPECT_EQ(std::signbit(W.data()[i]), std::signbit(expected)) << i;
    }
  }
}

TEST(QuantizedLinear, HoldsKMeansPerRow) {
  // 3 bits: eight values of its own for every row, and no parameters.
  QuantizedLinear q;
  q.N = 3;
  q.K = 21;
  q.scheme.grid = {.kind = Grid::Kind::kCodebook, .bits = 3};
  std::vector<float> books;
  for (int i = 0; i < 24; ++i) books.push_back(std::ldexp(static_cast<float>(i * i % 29 - 9), -5));
  std::vector<uint8_t> codes;
  for (int i = 0; i < 63; ++i) codes.push_back(static_cast<uint8_t>(i * 5 % 8));
  q.codes = tensor_of(Dtype::kU8, {3, 21}, codes);
  q.codebooks = f16_tensor({3, 8}, books);  // small integers / 32: exact in F16
  ASSERT_NO_THROW(check(q, "layer"));
  const Matrix W = dequantize(q);
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t k = 0; k < 21; ++k) {
      const int64_t i = n * 21 + k;
      EXPECT_EQ(W(n, k), books[static_cast<size_t>(n * 8 + i * 5 % 8)]) << n << " " << k;
      EXPECT_EQ(W(n, k), level(q, n, k));
    }
  }
}

TEST(QuantizedLinear, HoldsCodebooksWithScalesPerGroup) {
  QuantizedLinear q;
  q.N = 2;
  q.K = 40;
  q.scheme.grid = {.kind = Grid::Kind::kCodebook, .bits = 1};
  q.scheme.codebook_blocking = {.rows = kAll, .columns = 25};
  q.scheme.blocking = {.rows = 1, .columns = 16};
  q.scheme.scale = parameter(Dtype::kF16, 16);
  q.codes = tensor_of(Dtype::kU8, {2, 40}, std::vector<uint8_t>(80, 1));
  q.codebooks = f16_tensor({2, 2}, {-1.F, 3.F, -1.F, 5.F});
  q.scale.values = f16_tensor({2, 3}, {1.F, 2.F, 4.F, 8.F, 16.F, 32.F});
  ASSERT_NO_THROW(check(q, "layer"));
  const Matrix W = dequantize(q);
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t k = 0; k < 40; ++k) {
      const float scale = std::ldexp(1.F, static_cast<int>(3 * n + k / 16));
      EXPECT_EQ(W(n, k), (k < 25 ? 3.F : 5.F) * scale) << n << " " << k;
    }
  }
}

}  // namespace
}  // namespace nibble
