// Against tests/golden/rtn.json, made by NumPy (tools/golden/rtn.py), bit for bit.
#include "quantizers/solvers/rtn.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

constexpr int64_t kRows = 8;

nlohmann::json golden() {
  return nlohmann::json::parse(read_file(own_test_data().parent_path() / "golden" / "rtn.json"));
}

// The matrix that tools/golden/rtn.py describes.
Matrix golden_matrix(int64_t K) {
  Matrix W(kRows, K);
  uint32_t state = 12345;
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      state = state * 1664525U + 1013904223U;
      const auto value = static_cast<float>(static_cast<int32_t>(state >> 8) - (1 << 23));
      W(n, k) = value * 0x1p-23F * std::ldexp(1.F, -static_cast<int>(n % 4));
    }
  }
  W.row(1) = W.row(1).cwiseAbs();
  W.row(2) = -W.row(2).cwiseAbs();
  W.row(3).head(64).setZero();
  W.row(4) *= 0x1p-24F;
  W.row(5) *= 0x1p-14F;
  for (int64_t k = 0; k < K; ++k) W(6, k) = static_cast<float>((k * 7 % 31) - 15) / 2.F;
  return W;
}

uint32_t crc(const void* bytes, size_t size) {
  return static_cast<uint32_t>(crc32(0, static_cast<const Bytef*>(bytes), static_cast<uInt>(size)));
}
uint32_t crc(const Tensor& tensor) { return crc(tensor.bytes().data(), tensor.bytes().size()); }
uint32_t crc(const Matrix& matrix) {
  return crc(matrix.data(), static_cast<size_t>(matrix.size()) * sizeof(float));
}

SolverResult rtn(const Matrix& W, const Scheme& scheme) {
  return solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
}

std::string message_of(const Matrix& W, const Scheme& scheme) {
  try {
    rtn(W, scheme);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Rtn, EqualsNumpyInEveryBit) {
  const auto file = golden();
  ASSERT_EQ(crc(golden_matrix(256)), file["matrix"]["crc32"]["256"].get<uint32_t>());
  ASSERT_EQ(crc(golden_matrix(200)), file["matrix"]["crc32"]["200"].get<uint32_t>());
  ASSERT_EQ(file["cases"].size(), 336U);
  for (const auto& row : file["cases"]) {
    const int64_t group = row[2] == -1 ? kAll : row[2].get<int64_t>();
    const bool symmetric = row[3].get<bool>();
    const Scheme scheme = integer_scheme(row[1].get<int>(), group, symmetric,
                                         *dtype_from_name(row[4].get<std::string>()));
    const SolverResult result = rtn(golden_matrix(row[0].get<int64_t>()), scheme);
    EXPECT_NO_THROW(check(result.q, "layer"));
    EXPECT_EQ(crc(result.q.codes), row[5].get<uint32_t>()) << "codes of " << row;
    EXPECT_EQ(crc(result.q.scale.values), row[6].get<uint32_t>()) << "scales of " << row;
    if (!symmetric) {
      EXPECT_EQ(crc(result.q.zero.values), row[7].get<uint32_t>()) << "zeros of " << row;
    }
    EXPECT_EQ(crc(dequantize(result.q)), row[8].get<uint32_t>()) << "weights of " << row;
    EXPECT_EQ(result.rounding.raised_to_smallest, row[9].get<int64_t>()) << row;
  }
}

TEST(Rtn, OneScaleForTheTensorIsThatOfAllWeightsInOneRow) {
  const Matrix W = golden_matrix(200);
  const Matrix flat = W.reshaped<Eigen::RowMajor>(1, W.size());
  for (const bool symmetric : {true, false}) {
    const SolverResult tensor = rtn(W, integer_scheme(4, kAll, symmetric, Dtype::kF16, true));
    const SolverResult row = rtn(flat, integer_scheme(4, kAll, symmetric, Dtype::kF16));
    EXPECT_EQ(tensor.q.scale.values.elements(), 1);
    EXPECT_EQ(crc(tensor.q.codes), crc(row.q.codes));
    EXPECT_EQ(crc(tensor.q.scale.values), crc(row.q.scale.values));
    EXPECT_EQ(crc(dequantize(tensor.q)), crc(dequantize(row.q)));
  }
}

TEST(Rtn, ColumnGroupsArePermutedGroups) {
  // Column k in group (k * 3) mod 4: as if the columns had been sorted by group first.
  constexpr int64_t kK = 200;
  const Matrix W = golden_matrix(kK);
  std::vector<int32_t> groups(kK);
  std::vector<int64_t> order;
  for (int64_t k = 0; k < kK; ++k) groups[static_cast<size_t>(k)] = static_cast<int32_t>(k * 3 % 4);
  for (int32_t g = 0; g < 4; ++g) {
    for (int64_t k = 0; k < kK; ++k) {
      if (groups[static_cast<size_t>(k)] == g) order.push_back(k);
    }
  }
  Matrix sorted(kRows, kK);
  for (int64_t i = 0; i < kK; ++i) sorted.col(i) = W.col(order[static_cast<size_t>(i)]);
  const Scheme scheme = integer_scheme(3, 50, false, Dtype::kF16);
  const SolverResult mixed =
      solve_rtn({.W = W, .scheme = scheme, .group_of_column = groups, .where = "layer"});
  const SolverResult plain = rtn(sorted, scheme);
  EXPECT_NO_THROW(check(mixed.q, "layer"));
  EXPECT_EQ(crc(mixed.q.scale.values), crc(plain.q.scale.values));
  EXPECT_EQ(crc(mixed.q.zero.values), crc(plain.q.zero.values));
  const Matrix weights = dequantize(mixed.q);
  const Matrix expected = dequantize(plain.q);
  for (int64_t i = 0; i < kK; ++i) {
    EXPECT_TRUE(weights.col(order[static_cast<size_t>(i)]) == expected.col(i)) << "place " << i;
  }
}

TEST(Rtn, BlocksOfRowsAndFlattenedRunsTakeTheirOwnWeights) {
  // 8 x 200 in blocks of 4 x 64 (the last 4 x 8), and in flattened runs of 48, across row ends.
  const Matrix W = golden_matrix(200);
  Scheme scheme = integer_scheme(4, 64, true, Dtype::kF32);
  scheme.blocking.rows = 4;
  const SolverResult blocks = rtn(W, scheme);
  ASSERT_EQ(blocks.q.scale.values.elements(), 8);
  for (int64_t block = 0; block < 8; ++block) {
    const int64_t first = block % 4 * 64;
    const float absmax =
        W.block(block / 4 * 4, first, 4, std::min<int64_t>(64, 200 - first)).cwiseAbs().maxCoeff();
    EXPECT_EQ(blocks.q.scale.values.values<float>()[static_cast<size_t>(block)],
              absmax * 2.F / 15.F);
  }
  scheme.blocking = {.rows = 1, .columns = 48, .flattened = true};
  const SolverResult runs = rtn(W, scheme);
  ASSERT_EQ(runs.q.scale.values.elements(), 34);
  for (int64_t block = 0; block < 34; ++block) {
    float absmax = 0.F;
    for (int64_t i = block * 48; i < std::min<int64_t>(block * 48 + 48, 1600); ++i) {
      absmax = std::max(absmax, std::fabs(W(i / 200, i % 200)));
    }
    EXPECT_EQ(runs.q.scale.values.values<float>()[static_cast<size_t>(block)],
              absmax == 0.F ? 1.F : absmax * 2.F / 15.F);
  }
}

TEST(Rtn, RowsOfALargerMatrixAreTakenInPlace) {
  const Matrix W = golden_matrix(256);
  const Scheme scheme = integer_scheme(4, 64, true, Dtype::kF16);
  const SolverResult part = solve_rtn({.W = W.leftCols(128), .scheme = scheme, .where = "layer"});
  const SolverResult copy = rtn(Matrix(W.leftCols(128)), scheme);
  EXPECT_EQ(crc(part.q.codes), crc(copy.q.codes));
  EXPECT_EQ(crc(part.q.scale.values), crc(copy.q.scale.values));
}

TEST(Rtn, TheNumberOfThreadsDoesNotMatter) {
  const Matrix W = golden_matrix(256).replicate(40, 2);  // enough for several threads
  const int threads = omp_get_max_threads();
  for (const bool per_tensor : {false, true}) {
    const Scheme scheme = integer_scheme(4, per_tensor ? kAll : 64, false, Dtype::kF16, per_tensor);
    omp_set_num_threads(1);
    const SolverResult one = rtn(W, scheme);
    omp_set_num_threads(3);
    const SolverResult three = rtn(W, scheme);
    EXPECT_EQ(fingerprint(one.q), fingerprint(three.q));
    EXPECT_EQ(one.rounding.raised_to_smallest, three.rounding.raised_to_smallest);
    EXPECT_TRUE(dequantize(one.q) == dequantize(three.q));
  }
  omp_set_num_threads(threads);
}

TEST(Rtn, AnAllZeroLayerHasScaleOne) {
  const SolverResult result = rtn(Matrix::Zero(2, 64), integer_scheme(4, 32, false, Dtype::kF32));
  for (const float scale : result.q.scale.values.values<float>()) EXPECT_EQ(scale, 1.F);
  EXPECT_TRUE(dequantize(result.q).isZero(0.F));
  EXPECT_EQ(result.rounding.raised_to_smallest, 0);
}

TEST(Rtn, InfiniteScaleIsAnErrorWithTensorAndGroup) {
  Matrix W = golden_matrix(256);
  W(5, 100) = 1e6F;  // scale 133333: beyond 65504
  EXPECT_EQ(message_of(W, integer_scheme(4, 64, true, Dtype::kF16)),
            "layer: the scale of row 5, group 1 is infinite in F16 (store scales as BF16 or F32)");
  EXPECT_EQ(message_of(W, integer_scheme(4, 64, true, Dtype::kBF16)), "no error");
  W(5, 100) = 3e38F;
  W(5, 101) = -3e38F;  // the range itself is infinite
  EXPECT_NE(message_of(W, integer_scheme(4, 64, false, Dtype::kF32)).find("row 5, group 1"),
            std::string::npos);
  EXPECT_EQ(message_of(W, integer_scheme(4, 64, true, Dtype::kF32)), "no error");
}

TEST(Rtn, WeightsThatAreNotFiniteAreNamed) {
  Matrix W = golden_matrix(256);
  W(3, 17) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message_of(W, integer_scheme(4, 64, true, Dtype::kF16)),
            "layer: NaN at row 3, column 17 (is the checkpoint damaged?)");
  EXPECT_EQ(message_of(W, integer_scheme(4, kAll, true, Dtype::kF16, true)),
            "layer: NaN at row 3, column 17 (is the checkpoint damaged?)");
  W(3, 17) = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(message_of(W, integer_scheme(4, 64, false, Dtype::kF16)),
            "layer: infinity at row 3, column 17 (is the checkpoint damaged?)");
}

TEST(Rtn, SchemesItCannotTakeAreRefused) {
  const Matrix W = golden_matrix(256);
  EXPECT_NE(message_of(W, integer_scheme(1, 64, true, Dtype::kF16)).find("rtn at 1 bits"),
            std::string::npos);
  Scheme table;
  table.grid = {.kind = Grid::Kind::kTable, .bits = 1, .name = "sign", .table = {-1.F, 1.F}};
  table.scale = Parameter{};
  EXPECT_NE(message_of(W, table).find("for integer codes"), std::string::npos);
}

}  // namespace
}  // namespace nibble
