#include "quantizers/solvers/solvers.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/codebooks.h"
#include "src/quantized/comparison.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

TEST(Solvers, EveryRowRoundsALayerTheSameTwice) {
  std::set<std::string> names;
  Matrix W(16, 96);
  for (int64_t i = 0; i < W.size(); ++i) {
    W.data()[i] = static_cast<float>((i * 37) % 101 - 50) / 64.F;
  }
  const Matrix H = Matrix::Identity(96, 96);
  const Factorization factorization = factorize_for_gptq(H, {}, "layer");
  for (const Solver& row : solvers()) {
    EXPECT_TRUE(names.emplace(row.name).second) << row.name;
    EXPECT_FALSE(row.summary.empty());
    EXPECT_FALSE(row.source.empty());
    const LinearProblem problem = {.W = W,
                                   .scheme = row.name == "kmeans" ? kmeans_scheme(4)
                                             : row.name.starts_with("ggml")
                                                 ? ggml_scheme("q4_1")->scheme
                                                 : integer_scheme(4, 32, false, Dtype::kF16),
                                   .where = "layer"};
    const LayerInputs inputs = {.H = &H, .factorization = &factorization};
    const SolverResult first = row.solve(problem, inputs, {}).result;
    EXPECT_NO_THROW(check(first.q, "layer"));
    EXPECT_EQ(fingerprint(first.q), fingerprint(row.solve(problem, inputs, {}).result.q))
        << row.name;
    // Uniform weights in +-0.8, step 0.8 * 2 / 15: an error of step / sqrt(12) over 0.8 / sqrt(3).
    EXPECT_LT(relative_error(W, first.q), 1.2 / 15.) << row.name;
    EXPECT_GT(relative_error(W, first.q), 0.) << row.name;
  }
}

TEST(Solvers, UnknownNamesGetTheNearest) {
  EXPECT_EQ(solver("rtn").name, "rtn");
  try {
    solver("rnt");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no solver 'rnt' (did you mean 'rtn'?)");
  }
}

}  // namespace
}  // namespace nibble
