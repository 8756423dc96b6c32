// Every path of dequant_matmul against dequantize() and float64, over all kinds of schemes.
#include "kernels/dequant_matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dequant_matmul_paths.h"
#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

using MatrixF64 = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Matrix result(rows, columns);
  for (int64_t i = 0; i < result.size(); ++i) result.data()[i] = normal(random);
  return result;
}

Tensor random_floats(Dtype dtype, Shape shape, float low, float high, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(static_cast<size_t>(element_count(shape)));
  for (float& value : values) value = uniform(random);
  Tensor result = Tensor::allocate(dtype, std::move(shape));
  from_float(values, dtype, result.mutable_bytes());
  return result;
}

Tensor random_integers(Shape shape, int largest, std::mt19937& random) {
  std::uniform_int_distribution<int> uniform(0, largest);
  Tensor result = Tensor::allocate(Dtype::kU8, std::move(shape));
  for (uint8_t& value : result.mutable_values<uint8_t>()) {
    value = static_cast<uint8_t>(uniform(random));
  }
  return result;
}

// A layer of random codes and parameters; scales of both signs where the scheme has float scales.
QuantizedLinear random_linear(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 random(seed);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = N;
  q.K = K;
  q.codes = random_integers({N, K}, (1 << scheme.grid.bits) - 1, random);
  const int64_t blocks = block_count(scheme.blocking, N, K);
  if (scheme.scale)
    q.scale.values = random_floats(scheme.scale->type, {blocks}, -0.1f, 1.f, random);
  if (scheme.zero && scheme.zero->type == Dtype::kU8) {
    q.zero.values = random_integers({blocks}, (1 << scheme.zero->bits) - 1, random);
  } else if (scheme.zero) {
    q.zero.values = random_floats(scheme.zero->type, {blocks}, 0.f, 15.f, random);
  }
  if (scheme.minimum) {
    q.minimum.values = random_floats(scheme.minimum->type, {blocks}, -1.f, 0.f, random);
  }
  if (scheme.grid.kind == Grid::Kind::kCodebook) {
    const int64_t books = block_count(scheme.codebook_blocking, N, K);
    q.codebooks =
        random_floats(Dtype::kF16, {books, int64_t{1} << scheme.grid.bits}, -1.f, 1.f, random);
  }
  return q;
}

Scheme table_scheme(int bits, int64_t block) {
  Scheme scheme = integer_scheme(bits, block, true, Dtype::kF32);
  scheme.grid.kind = Grid::Kind::kTable;
  scheme.grid.name = "test";
  for (int code = 0; code < 1 << bits; ++code) {
    scheme.grid.table.push_back(std::sin(0.7f * static_cast<float>(code)));
  }
  scheme.grid.table[1] = -0.f;  // as FP4 has it: its sign must survive
  return scheme;
}

struct Case {
  std::string name;
  QuantizedLinear q;
};

std::vector<Case> integer_cases() {
  std::vector<Case> cases;
  uint32_t seed = 1;
  const auto add = [&](int bits, int64_t group, bool symmetric, int64_t N, int64_t K) {
    const Scheme scheme = integer_scheme(bits, group, symmetric, Dtype::kF16);
    const std::string name = describe(scheme) + " " + to_string({N, K});
    cases.push_back({name, random_linear(scheme, N, K, seed++)});
  };
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      add(bits, kAll, symmetric, 5, 300);
      add(bits, 128, symmetric, 7, 768);
      add(bits, 128, symmetric, 3, 1000);  // ragged last group
      add(bits, 64, symmetric, 4, 520);
      add(bits, 32, symmetric, 6, 1056);
      add(bits, 16, symmetric, 2, 50);
      add(bits, 48, symmetric, 3, 480);  // three chunks
      add(bits, 20, symmetric, 3, 90);   // no multiple of a chunk
      add(bits, 512, symmetric, 3, 1536);
      add(bits, 128, symmetric, 1, 1);
    }
  }
  return cases;
}

std::vector<int32_t> random_groups(int64_t K, int64_t group_size, uint32_t seed) {
  std::vector<int32_t> groups(static_cast<size_t>(K));
  for (int64_t k = 0; k < K; ++k) groups[k] = static_cast<int32_t>(k / group_size);
  std::shuffle(groups.begin(), groups.end(), std::mt19937(seed));
  return groups;
}

std::vector<Case> other_cases() {
  std::vector<Case> cases;
  uint32_t seed = 1000;
  const auto add = [&](const std::string& name, const Scheme& scheme, int64_t N, int64_t K) {
    cases.push_back({name, random_linear(scheme, N, K, seed++)});
  };
  add("per tensor", integer_scheme(8, kAll, true, Dtype::kF32, true), 9, 200);
  add("table 4 g64", table_scheme(4, 64), 5, 320);
  add("table 4 g16", table_scheme(4, 16), 5, 320);
  add("table 3 g64", table_scheme(3, 64), 5, 1088);
  add("table 5 g32", table_scheme(5, 32), 5, 224);
  add("table 8 g128", table_scheme(8, 128), 5, 640);
  add("table 8 per channel", table_scheme(8, kAll), 5, 70);
  Scheme flattened = table_scheme(4, 64);
  flattened.blocking = {.rows = 1, .columns = 64, .flattened = true};
  add("flattened, whole blocks per row", flattened, 6, 256);
  add("flattened, blocks across rows", flattened, 6, 96);
  flattened.blocking.columns = 200;
  add("flattened, several rows per block", flattened, 6, 100);
  Scheme tall = integer_scheme(8, 32, true, Dtype::kF32);
  tall.blocking.rows = 4;
  add("blocks of 4 x 32", tall, 10, 100);
  tall.blocking.rows = kAll;
  add("blocks of all rows", tall, 10, 100);
  Scheme minimum = integer_scheme(4, 32, true, Dtype::kF16);
  minimum.minimum = minimum.scale;
  add("scale and minimum", minimum, 5, 256);
  Scheme float_zero = integer_scheme(8, 64, false, Dtype::kF32);
  float_zero.zero = float_zero.scale;
  add("float zero", float_zero, 5, 256);
  Scheme codebook;
  codebook.grid.kind = Grid::Kind::kCodebook;
  codebook.grid.bits = 3;
  add("codebook per row", codebook, 7, 600);
  codebook.codebook_blocking = {.rows = kAll, .columns = kAll};
  add("codebook per tensor", codebook, 7, 600);
  codebook.grid.bits = 6;
  codebook.codebook_blocking = {.rows = 3, .columns = kAll};
  add("6 bit codebook per three rows", codebook, 7, 600);
  const Scheme act_order = integer_scheme(4, 128, false, Dtype::kF16);
  add("act-order", act_order, 5, 700);
  cases.back().q.group_of_column = random_groups(700, 128, 5);
  add("uneven column groups", act_order, 5, 300);
  cases.back().q.group_of_column.assign(300, 0);
  std::fill_n(cases.back().q.group_of_column.begin() + 7, 30, 2);  // and none in group 1
  add("column groups in order", act_order, 5, 300);
  for (int k = 0; k < 300; ++k) cases.back().q.group_of_column.push_back(k / 128);
  return cases;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = integer_cases();
  std::ranges::move(other_cases(), std::back_inserter(cases));
  return cases;
}

// x * W' in float64 and, for the tolerance, |x| * |W|'.
struct Expected {
  MatrixF64 y;
  MatrixF64 norm;
};

Expected expected_product(const Matrix& x, const Matrix& W) {
  const MatrixF64 x64 = x.cast<double>(), W64 = W.cast<double>();
  return {x64 * W64.transpose(), x64.cwiseAbs() * W64.cwiseAbs().transpose()};
}

// A sum of K products in float, in any order: each is rounded at most K + 1 times, by 2^-24 of a
// partial sum that is at most the sum of absolute products.
void expect_close(const Matrix& y, const Expected& expected, int64_t K, const std::string& what) {
  const double epsilon = std::numeric_limits<float>::epsilon() / 2. * static_cast<double>(K + 1);
  for (int64_t t = 0; t < y.rows(); ++t) {
    for (int64_t n = 0; n < y.cols(); ++n) {
      const double allowed = epsilon * expected.norm(t, n);
      ASSERT_LE(std::abs(y(t, n) - expected.y(t, n)), allowed)
          << what << ": y[" << t << ", " << n << "] = " << y(t, n) << ", expected "
          << expected.y(t, n);
    }
  }
}

Matrix multiply(const Matrix& x, const PackedLinear& w, const DequantPath& path) {
  // A wider matrix of NaN: rows apart, and nothing but the result may be written.
  Matrix y = Matrix::Constant(x.rows(), w.N + 3, std::numeric_limits<float>::quiet_NaN());
  dequant_matmul(x, w, y.leftCols(w.N), Accumulate::kNo, path);
  EXPECT_TRUE(y.rightCols(3).array().isNaN().all()) << "written beyond the result";
  return y.leftCols(w.N);
}

bool same_bytes(const Matrix& a, const Matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), sizeof(float) * static_cast<size_t>(a.size())) == 0;
}

TEST(DequantMatmul, UnpackedRowsAreTheDequantizedWeightsBitForBit) {
  for (const Case& test : all_cases()) {
    check(test.q, test.name);
    ASSERT_TRUE(can_pack(test.q)) << test.name;
    const PackedLinear w = pack(test.q);
    const Matrix expected = dequantize(test.q);
    for (const DequantPath* path : dequant_paths()) {
      Matrix W(w.N, w.K);
      unpack_rows(w, 0, W, *path);
      EXPECT_TRUE(same_bytes(W, expected)) << test.name << ", " << path->name;
      Matrix last(1, w.K);
      unpack_rows(w, w.N - 1, last, *path);
      EXPECT_TRUE(same_bytes(last, expected.bottomRows(1))) << test.name << ", " << path->name;
    }
  }
}

TEST(DequantMatmul, ReferenceIsTheFloat64ProductRoundedOnce) {
  for (const Case& test : all_cases()) {
    const Matrix x = random_matrix(3, test.q.K, 7);
    const Expected expected = expected_product(x, dequantize(test.q));
    Matrix y(3, test.q.N);
    dequant_matmul_reference(x, pack(test.q), y);
    for (int64_t i = 0; i < y.size(); ++i) {
      const double allowed = std::abs(expected.y.data()[i]) * 0x1p-24 +
                             expected.norm.data()[i] * 0x1p-53 * static_cast<double>(test.q.K);
      ASSERT_LE(std::abs(y.data()[i] - expected.y.data()[i]), allowed)
          << test.name << ": element " << i << " = " << y.data()[i] << ", expected "
          << expected.y.data()[i];
    }
  }
}

TEST(DequantMatmul, EveryPathAndSchemeMultiplies) {
  for (const Case& test : all_cases()) {
    const PackedLinear w = pack(test.q);
    const Matrix W = dequantize(test.q);
    for (const int64_t T : {1, 2, 4, 8, 26}) {
      const Matrix x = random_matrix(T, w.K, static_cast<uint32_t>(T));
      const Expected expected = expected_product(x, W);
      for (const DequantPath* path : dequant_paths()) {
        expect_close(multiply(x, w, *path), expected, w.K,
                     test.name + ", " + path->name + ", T = " + std::to_string(T));
      }
    }
  }
}

TEST(DequantMatmul, AnyNumberOfTokens) {
  Scheme schemes[] = {integer_scheme(4, 128, false, Dtype::kF16), table_scheme(4, 64),
                      integer_scheme(3, 128, true, Dtype::kF16)};
  for (const Scheme& scheme : schemes) {
    const QuantizedLinear q = random_linear(scheme, 300, 700, 3);
    const PackedLinear w = pack(q);
    const Matrix W = dequantize(q);
    for (const int64_t T : {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 256, 530}) {
      const Matrix x = random_matrix(T, w.K, static_cast<uint32_t>(T));
      const Expected expected = expected_product(x, W);
      for (const DequantPath* path : dequant_paths()) {
        expect_close(multiply(x, w, *path), expected, w.K,
                     describe(scheme) + ", " + path->name + ", T = " + std::to_string(T));
      }
    }
  }
}

TEST(DequantMatmul, ManyTokensGiveTheBitsOfTheProductWithDequantizedWeights) {
  for (const Case& test : all_cases()) {
    const PackedLinear w = pack(test.q);
    if (!w.column.empty()) continue;  // sums in the order of the packed columns
    const Matrix x = random_matrix(40, w.K, 5);
    Matrix expected(40, w.N);
    matmul(x, make_panels(dequantize(test.q)), expected);
    EXPECT_TRUE(same_bytes(multiply(x, w, *dequant_paths().back()), expected)) << test.name;
  }
}

TEST(DequantMatmul, AddsToTheOutputIfAsked) {
  const PackedLinear w =
      pack(random_linear(integer_scheme(4, 128, true, Dtype::kF16), 70, 1300, 3));
  for (const int64_t T : {1, 8, 40}) {
    const Matrix x = random_matrix(T, w.K, 1);
    const Matrix before = random_matrix(T, w.N, 2);
    Matrix product(T, w.N);
    dequant_matmul(x, w, product);
    Matrix y = before;
    dequant_matmul(x, w, y, Accumulate::kYes);
    // Both are the same sum but for where `before` enters it.
    const Matrix norm = x.cwiseAbs() * Matrix::Ones(w.K, w.N);
    for (int64_t i = 0; i < y.size(); ++i) {
      const float expected = before.data()[i] + product.data()[i];
      const float allowed = 0x1p-24f * 1300 * (std::abs(before.data()[i]) + 8 * norm.data()[i]);
      ASSERT_LE(std::abs(y.data()[i] - expected), allowed) << "T = " << T << ", element " << i;
    }
  }
}

TEST(DequantMatmul, PeriodsDivideTheChunksOfAGroup) {
  const auto kind_of = [](int bits, int64_t group) {
    const int64_t K = 2 * group;
    return row_kind(pack(random_linear(integer_scheme(bits, group, true, Dtype::kF16), 1, K, 1)));
  };
  const auto table = [](int bits, int period) {
    return RowKind{.bits = bits, .decoder = Decoder::kTable, .period = period};
  };
  EXPECT_EQ(kind_of(4, 128), table(4, 8));  // a tile of 8 chunks
  EXPECT_EQ(kind_of(4, 64), table(4, 4));
  EXPECT_EQ(kind_of(4, 96), table(4, 2));
  EXPECT_EQ(kind_of(4, 48), table(4, 1));
  EXPECT_EQ(kind_of(3, 128), table(3, 8));
  EXPECT_EQ(kind_of(3, 512), table(3, 32));
  EXPECT_EQ(kind_of(2, 128), table(2, 8));
  EXPECT_EQ(kind_of(8, 32), (RowKind{.bits = 8, .decoder = Decoder::kInteger, .period = 2}));
}

// A larger error than rounding must be noticed: the tolerance has teeth.
TEST(DequantMatmul, ToleranceNoticesOneWrongCode) {
  QuantizedLinear q = random_linear(integer_scheme(4, 128, false, Dtype::kF16), 4, 1024, 3);
  const Matrix x = random_matrix(1, 1024, 1);
  const Expected expected = expected_product(x, dequantize(q));
  q.codes.mutable_values<uint8_t>()[17] ^= 1;
  const Matrix y = multiply(x, pack(q), *dequant_paths().back());
  const double allowed = 0x1p-24 * 1025 * expected.norm(0, 0);
  EXPECT_GT(std::abs(y(0, 0) - expected.y(0, 0)), allowed);
}

TEST(DequantMatmul, BytesDoNotDependOnThreads) {
  const int threads = omp_get_max_threads();
  const PackedLinear w =
      pack(random_linear(integer_scheme(4, 128, false, Dtype::kF16), 700, 1100, 3));
  for (const int64_t T : {1, 5, 40, 600}) {
    const Matrix x = random_matrix(T, w.K, 1);
    std::vector<Matrix> results;
    for (const int count : {1, 2, 3}) {
      omp_set_num_threads(count);
      results.push_back(multiply(x, w, *dequant_paths().back()));
    }
    Matrix inside[2];  // called by two threads at once, as the forward pass does
#pragma omp parallel for num_threads(2)
    for (int i = 0; i < 2; ++i) inside[i] = multiply(x, w, *dequant_paths().back());
    omp_set_num_threads(threads);
    EXPECT_TRUE(same_bytes(results[0], results[1])) << "T = " << T;
    EXPECT_TRUE(same_bytes(results[0], results[2])) << "T = " << T;
    EXPECT_TRUE(same_bytes(results[0], inside[0])) << "T = " << T;
    EXPECT_TRUE(same_bytes(results[0], inside[1])) << "T = " << T;
  }
}

TEST(DequantMatmul, RefusesWhatHasNoPackedForm) {
  Scheme flattened = table_scheme(4, 64);
  flattened.blocking = {.rows = 1, .columns = 64, .flattened = true};
  Scheme books;
  books.grid.kind = Grid::Kind::kCodebook;
  books.codebook_blocking = {.rows = 1, .columns = 32};
  const std::vector<QuantizedLinear> layers = {
      random_linear(flattened, 4, 100, 1), random_linear(books, 4, 64, 1),
      random_linear(integer_scheme(4, 3, true, Dtype::kF16), 4, 96, 1)};  // 16 columns for 3
  for (const QuantizedLinear& q : layers) {
    EXPECT_FALSE(can_pack(q)) << describe(q.scheme);
    EXPECT_THROW(pack(q), Error) << describe(q.scheme);
  }
}

TEST(DequantMatmul, FourBitsTakeAboutFourBits) {
  const QuantizedLinear q = random_linear(integer_scheme(4, 128, true, Dtype::kF16), 64, 4096, 1);
  // codes, a float scale per group, one book of 16 levels
  EXPECT_EQ(pack(q).bytes(), 64 * (4096 / 2 + 4096 / 128 * 4) + 16 * 4);
}

}  // namespace
}  // namespace nibble
