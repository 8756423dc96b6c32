// GPTQ on llama.cpp's grids against loops written here, and against rounding on the same grids.
#include "quantizers/solvers/ggml.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/refine.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kLayerRows = 70;
constexpr int64_t kLayerColumns = 512;

// Columns of different size, neighbours alike.
Matrix correlated_hessian(int64_t T, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix X(T, kLayerColumns);
  for (int64_t k = 0; k < kLayerColumns; ++k) {
    const float size = std::exp(0.7F * normal(generator));
    for (int64_t t = 0; t < T; ++t) {
      X(t, k) = size * normal(generator) + (k > 0 ? 0.5F * X(t, k - 1) : 0.F);
    }
  }
  return X.transpose() * X / static_cast<float>(T);
}

Matrix normal_weights(uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix W(kLayerRows, kLayerColumns);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = 0.02F * normal(generator);
  return W;
}

// e'(H + damping)e of every row, in double.
Eigen::VectorXd row_losses(const Matrix& W, const QuantizedLinear& q, const Matrix& H,
                           double damping) {
  const Eigen::MatrixXd e = (W - dequantize(q)).cast<double>();
  Eigen::MatrixXd A = H.cast<double>();
  A.diagonal().array() += damping;
  return (e * A).cwiseProduct(e).rowwise().sum();
}

struct GgmlLayer {
  Matrix H = correlated_hessian(900, 1);
  Matrix W = normal_weights(2);
  Factorization factorization = factorize_for_gptq(H, {}, "layer");

  LinearProblem problem(const GgmlScheme& type) const {
    return {.W = W, .scheme = type.scheme, .where = "layer"};
  }
  QuantizedLinear round(const GgmlScheme& type) const {
    return solve_ggml(problem(type), importance_of(H)).q;
  }
  GptqResult solve(const GgmlScheme& type, int sweeps) const {
    return solve_ggml_gptq(problem(type), H, factorization, {.sweeps = sweeps});
  }
};

class GgmlGptq : public ::testing::TestWithParam<const char*> {
 protected:
  const GgmlScheme& type() const { return *ggml_scheme(GetParam()); }
  GgmlLayer layer_;
};

// Weight n, k is moved by the errors of the columns before it in the order, as the factors say, and
// becomes the nearest of all that its block can be.
TEST_P(GgmlGptq, ChoosesTheCodesOfTheDefinition) {
  const QuantizedLinear rounded = layer_.round(type());
  QuantizedLinear q = layer_.round(type());
  solve_codes(layer_.problem(type()), layer_.H, layer_.factorization, q);
  int64_t different = 0;
  for (int64_t n = 0; n < kLayerRows; ++n) {
    std::vector<double> errors;  // as found by solve_codes: one tie does not spoil a row
    for (int64_t j = 0; j < kLayerColumns; ++j) {
      const int64_t k = layer_.factorization.order[static_cast<size_t>(j)];
      double target = layer_.W(n, k);
      for (int64_t i = 0; i < j; ++i) {
        target += layer_.factorization.F(j, i) * errors[static_cast<size_t>(i)];
      }
      const BlockParameters parameters = block_parameters(q, n, k);
      const auto value = [&](int code) {
        const Grid& grid = type().scheme.grid;
        const double level = grid.kind == Grid::Kind::kTable
                                 ? double{grid.table[static_cast<size_t>(code)]}
                                 : double(code + grid.lowest);
        return level * parameters.scale + parameters.minimum;
      };
      double nearest = std::numeric_limits<double>::infinity();
      for (int code = 0; code < 1 << type().scheme.grid.bits; ++code) {
        nearest = std::min(nearest, std::fabs(target - value(code)));
      }
      const double chosen =
          value(q.codes.values<uint8_t>()[static_cast<size_t>(n * kLayerColumns + k)]);
      // Targets are sums of up to 512 products in float.
      if (std::fabs(target - chosen) > nearest + 1e-6) ++different;
      errors.push_back(layer_.W(n, k) - chosen);
    }
  }
  EXPECT_LE(different, kLayerRows * kLayerColumns / 1000);
  EXPECT_LT(row_losses(layer_.W, q, layer_.H, 0.).sum(),
            0.95 * row_losses(layer_.W, rounded, layer_.H, 0.).sum());
}

TEST_P(GgmlGptq, SweepsLowerTheLossOfEveryRow) {
  const double damping = layer_.factorization.added;
  QuantizedLinear q = layer_.solve(type(), 0).solved.q;
  for (int sweep = 0; sweep < 3; ++sweep) {
    const Eigen::VectorXd before = row_losses(layer_.W, q, layer_.H, damping);
    refine(layer_.W, layer_.H, damping, 1, q);
    EXPECT_NO_THROW(check(q, "layer"));
    const Eigen::VectorXd after = row_losses(layer_.W, q, layer_.H, damping);
    for (int64_t n = 0; n < kLayerRows; ++n) {
      ASSERT_LE(after(n), before(n) * (1. + 1e-5) + 1e-9) << sweep << ", " << n;
    }
    EXPECT_LT(after.sum(), before.sum());
  }
}

TEST_P(GgmlGptq, EndsWithTheSweepsAskedFor) {
  QuantizedLinear q = layer_.solve(type(), 0).solved.q;
  refine(layer_.W, layer_.H, layer_.factorization.added, 2, q);
  EXPECT_EQ(fingerprint(layer_.solve(type(), 2).solved.q), fingerprint(q));
}

TEST_P(GgmlGptq, GivesTheSameBytesOnAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = fingerprint(layer_.solve(type(), 2).solved.q);
  omp_set_num_threads(3);
  const auto three = fingerprint(layer_.solve(type(), 2).solved.q);
  omp_set_num_threads(threads);
  EXPECT_EQ(one, three);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, GgmlGptq,
                         ::testing::Values("q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k",
                                           "q4_0", "iq4_nl", "iq4_xs", "mxfp4", "q3_k", "q2_k"));

TEST(GgmlGptqLayer, TakesInputsThatAreAlwaysZeroAndRowsOfZeros) {
  GgmlLayer layer;
  layer.W.row(3).setZero();
  layer.W.block(4, 256, 1, 256).setZero();
  for (const int64_t k : {5, 300}) {
    layer.H.row(k).setZero();
    layer.H.col(k).setZero();
  }
  layer.H.block(0, 64, kLayerColumns, 32).setZero();  // a whole block
  layer.H.block(64, 0, 32, kLayerColumns).setZero();
  layer.factorization = factorize_for_gptq(layer.H, {}, "layer");
  for (const GgmlScheme& type : ggml_schemes()) {
    SCOPED_TRACE(type.name);
    const GptqResult found = layer.solve(type, 2);
    EXPECT_EQ(found.dead_columns, 34);
    const Matrix read = dequantize(found.solved.q);
    EXPECT_TRUE(read.allFinite());
    EXPECT_TRUE(read.row(3).isZero());
    // No input of zeros makes its weights worse than rounding them to two bits.
    EXPECT_LT((read.col(5) - layer.W.col(5)).norm(), 0.6F * layer.W.col(5).norm());
    EXPECT_LT((read.middleCols(64, 32) - layer.W.middleCols(64, 32)).norm(),
              0.6F * layer.W.middleCols(64, 32).norm());
  }
}

TEST(GgmlGptqLayer, RefusesSearchesOfItsOwn) {
  const GgmlLayer layer;
  const GgmlScheme& type = *ggml_scheme("q4_k");
  for (const GptqOptions& options :
       {GptqOptions{.static_groups = false}, GptqOptions{.search = ScaleSearch::kMse}}) {
    EXPECT_THROW(solve_ggml_gptq(layer.problem(type), layer.H, layer.factorization, options),
                 Error);
  }
}

}  // namespace
}  // namespace nibble
