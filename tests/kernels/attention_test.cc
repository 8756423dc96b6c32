#include "kernels/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/workspace.h"

namespace nibble {
namespace {

struct Case {
  AttentionShape shape;
  int64_t queries;
  int64_t keys;
};

// Blocks are 128 keys and 128 rows: shapes within, at and across them, with groups, heads that are
// no multiple of a panel, windows that begin inside a block, and prompts continued.
const std::vector<Case> kCases = {
    {{1, 1, 8, 0, 1}, 1, 1},       {{4, 2, 64, 0, 2}, 130, 130},    {{3, 1, 24, 0, 1}, 70, 70},
    {{8, 8, 16, 20, 2}, 150, 150}, {{4, 4, 128, 0, 1}, 33, 300},    {{6, 2, 40, 100, 3}, 257, 257},
    {{16, 1, 32, 0, 1}, 64, 64},   {{2, 1, 64, 1, 1}, 140, 140},    {{4, 2, 64, 0, 1}, 1, 200},
    {{4, 2, 64, 50, 2}, 3, 200},   {{64, 1, 16, 130, 1}, 300, 300}, {{2, 2, 64, 0, 5}, 4, 4},
};

struct Inputs {
  explicit Inputs(const Case& c)
      : q(Matrix::Random(c.shape.windows * c.queries, c.shape.heads * c.shape.head_size) * 2.f),
        k(Matrix::Random(c.shape.windows * c.keys, c.shape.key_value_heads * c.shape.head_size) *
          2.f),
        v(Matrix::Random(k.rows(), k.cols())) {}
  Matrix q, k, v;
};

Matrix run(const Case& c, const Inputs& in) {
  Matrix out = Matrix::Constant(in.q.rows(), in.q.cols(), 1e9f);
  Workspace workspace;
  attention(c.shape, in.q, in.k, in.v, workspace, out);
  return out;
}

// softmax(q K' / sqrt(head_size)) V of one head and query in float64. Returns the largest sum of
// |q k| terms, which bounds the rounding of a score.
double naive(const Eigen::RowVectorXd& q, const Eigen::MatrixXd& k, const Eigen::MatrixXd& v,
             Eigen::RowVectorXd& out) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size()));
  Eigen::VectorXd scores = k * q.transpose() * scale;
  const double size = (k.cwiseAbs() * q.cwiseAbs().transpose() * scale).maxCoeff();
  scores = (scores.array() - scores.maxCoeff()).exp();
  out = scores.transpose() * v / scores.sum();
  return size;
}

class Attention : public testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(Cases, Attention, testing::Range<size_t>(0, kCases.size()));

TEST_P(Attention, EqualsFloat64) {
  srand(1);
  const Case& c = kCases[GetParam()];
  const AttentionShape& s = c.shape;
  const Inputs in(c);
  const Matrix got = run(c, in);
  for (int64_t row = 0; row < in.q.rows(); ++row) {
    const int64_t first_row = row / c.queries * c.keys;
    const int64_t position = c.keys - c.queries + row % c.queries;
    const int64_t oldest =
        s.sliding_window == 0 ? 0 : std::max<int64_t>(0, position - s.sliding_window + 1);
    for (int64_t head = 0; head < s.heads; ++head) {
      const int64_t column = head / (s.heads / s.key_value_heads) * s.head_size;
      const auto seen = [&](const Matrix& m) -> Eigen::MatrixXd {
        return m.block(first_row + oldest, column, position + 1 - oldest, s.head_size)
            .cast<double>();
      };
      Eigen::RowVectorXd expected;
      const double size = naive(in.q.block(row, head * s.head_size, 1, s.head_size).cast<double>(),
                                seen(in.k), seen(in.v), expected);
      // A score is wrong by at most (head_size + 3) units of `size`, a weight by twice that
      // relatively, and its sums over the keys, |v| <= 1, by (keys + 8) units more.
      const double unit = 0x1p-24;
      const double tolerance = 2 * static_cast<double>(s.head_size + 3) * unit * size +
                               static_cast<double>(position + 1 - oldest + 8) * unit;
      for (int64_t i = 0; i < s.head_size; ++i) {
        ASSERT_NEAR(got(row, head * s.head_size + i), expected[i], tolerance)
            << "row " << row << ", head " << head << ", column " << i;
      }
    }
  }
}

TEST_P(Attention, TheThreadsDoNotMatter) {
  srand(2);
  const Case& c = kCases[GetParam()];
  const Inputs in(c);
  const Matrix expected = run(c, in);
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    EXPECT_EQ(run(c, in), expected) << threads;
  }
  omp_set_num_threads(before);
}

TEST(AttentionScores, OfAnySizeGiveFiniteWeights) {
  const Case c{{1, 1, 16, 0, 1}, 200, 200};
  Inputs in(c);
  in.q *= 1e4f;  // scores of millions: all weight on one key
  const Matrix out = run(c, in);
  EXPECT_TRUE(out.allFinite());
  EXPECT_LE(out.cwiseAbs().maxCoeff(), in.v.cwiseAbs().maxCoeff());
}

}  // namespace
}  // namespace nibble
