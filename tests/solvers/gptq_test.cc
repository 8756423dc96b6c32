// Against tests/golden/gptq.json, made by a NumPy program in float64 that follows the paper
// (tools/golden/gptq_reference.py), and against definitions.
#include "quantizers/solvers/gptq.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/factorize.h"
#include "quantizers/solvers/layer_error.h"
#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

struct Inputs {
  Matrix H;  // [K, K]
  Matrix W;  // [N, K]
};

// As tools/golden/gptq_reference.py describes.
Inputs golden_inputs(int64_t N, int64_t K, int64_t T) {
  uint32_t state = 12345;
  const auto draw = [&state] {
    state = state * 1664525U + 1013904223U;
    return static_cast<double>(static_cast<int32_t>(state >> 8) - (1 << 23)) * 0x1p-23;
  };
  Eigen::MatrixXd X(T, K);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t k = 0; k < K; ++k) X(t, k) = draw() * std::ldexp(1., -static_cast<int>(k * 7 % 5));
  }
  for (int64_t k = 1; k < K; ++k) X.col(k) += X.col(k - 1) / 2.;
  Inputs inputs = {(X.transpose() * X / static_cast<double>(T)).cast<float>(), Matrix(N, K)};
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      inputs.W(n, k) = static_cast<float>(draw() * std::ldexp(1., -static_cast<int>(n % 3)));
    }
  }
  return inputs;
}

Matrix random_hessian(int64_t T, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix X(T, K);
  for (int64_t k = 0; k < K; ++k) {
    const float size = std::exp(0.7F * normal(generator));
    for (int64_t t = 0; t < T; ++t) {
      X(t, k) = size * normal(generator) + (k > 0 ? 0.5F * X(t, k - 1) : 0.F);
    }
  }
  return X.transpose() * X / static_cast<float>(T);
}

Matrix random_weights(int64_t N, int64_t K, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix W(N, K);
  for (int64_t i = 0; i < W.size(); ++i) W.data()[i] = 0.02F * normal(generator);
  return W;
}

// tr(E H E') in double.
double loss(const Matrix& E, const Matrix& H) {
  const Eigen::MatrixXd e = E.cast<double>();
  return (e * H.cast<double>()).cwiseProduct(e).sum();
}
double loss(const Matrix& W, const QuantizedLinear& q, const Matrix& H) {
  return loss(W - dequantize(q), H);
}

GptqResult gptq(const Matrix& W, const Matrix& H, const Scheme& scheme,
                const GptqOptions& options) {
  const LinearProblem problem = {.W = W, .scheme = scheme, .where = "layer"};
  return solve_gptq(problem, H, factorize_for_gptq(H, options, "layer"), options);
}

GptqOptions plain() { return {.act_order = false, .search = ScaleSearch::kMinMax, .sweeps = 0}; }

ScaleSearch search_of(const std::string& name) {
  if (name == "mse") return ScaleSearch::kMse;
  return name == "hessian" ? ScaleSearch::kHessian : ScaleSearch::kMinMax;
}

TEST(Gptq, EqualsThePapersAlgorithmInFloat64) {
  const auto file =
      nlohmann::json::parse(read_file(own_test_data().parent_path() / "golden" / "gptq.json"));
  const auto N = file["N"].get<int64_t>();
  const auto K = file["K"].get<int64_t>();
  const Inputs inputs = golden_inputs(N, K, file["T"].get<int64_t>());
  const auto& [H, W] = inputs;
  ASSERT_NEAR(H.trace(), file["H"]["trace"].get<double>(), 1e-5 * H.trace());
  ASSERT_NEAR(H(0, K - 1), file["H"]["corner"].get<double>(), 1e-9);
  ASSERT_EQ(file["cases"].size(), 12U);
  for (const auto& row : file["cases"]) {
    const int bits = row["bits"].get<int>();
    const int64_t group = row["group"] == -1 ? kAll : row["group"].get<int64_t>();
    const Scheme scheme = integer_scheme(bits, group, row["symmetric"].get<bool>(),
                                         *dtype_from_name(row["scale_type"].get<std::string>()));
    const GptqResult result = gptq(W, H, scheme,
                                   {.act_order = row["act_order"].get<bool>(),
                                    .static_groups = row["static_groups"].get<bool>(),
                                    .search = search_of(row["search"].get<std::string>()),
                                    .sweeps = 0});
    const QuantizedLinear& q = result.solved.q;
    const std::string name = row["search"].get<std::string>() + " " + describe(scheme) +
                             (row["act_order"].get<bool>() ? " act-order" : "") +
                             (row["static_groups"].get<bool>() ? " static" : "");
    EXPECT_NO_THROW(check(q, name));
    EXPECT_EQ(q.group_of_column.empty(),
              row["static_groups"].get<bool>() || !row["act_order"].get<bool>() || group == kAll)
        << name;
    const auto text = row["codes"].get<std::string>();
    const size_t digits = bits <= 4 ? 1 : 2;
    ASSERT_EQ(text.size(), static_cast<size_t>(N * K) * digits);
    const auto codes = q.codes.values<uint8_t>();
    int64_t different = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      different += std::stoi(text.substr(i * digits, digits), nullptr, 16) != codes[i] ? 1 : 0;
    }
    EXPECT_LE(different, N * K / 1000) << name;  // 99.9 %: ties in float
    const double expected = row["loss"].get<double>();
    EXPECT_NEAR(loss(W, q, H) / loss(W, H), expected, 1e-4 * expected) << name;
    EXPECT_NEAR(std::pow(output_error(W, H, q), 2.), expected, 2e-4 * expected) << name;
    for (size_t g = 0; g < row["row0_scales"].size(); ++g) {
      const double scale = row["row0_scales"][g].get<double>();
      EXPECT_NEAR(float_parameters(q).scale[g], scale, 1e-6 * scale) << name << ", group " << g;
    }
  }
}

// Codes are chosen for the scales that read back: the loss that the codes were chosen by is that of
// the weights as they are read, so that refinement, which starts from those, only lowers it.
TEST(Gptq, ScalesOfScalesAreFixedBeforeTheCodes) {
  const Matrix H = random_hessian(600, 256, 21);
  Matrix W = random_weights(70, 256, 22);
  W.row(3).head(64).setZero();
  for (const bool symmetric : {true, false}) {
    const Scheme plain = integer_scheme(4, 64, symmetric, Dtype::kF16);
    const Scheme scheme = double_quantized(plain);
    for (const bool act_order : {true, false}) {
      for (const bool static_groups : {true, false}) {
        for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kHessian}) {
          GptqOptions options = {.act_order = act_order,
                                 .static_groups = static_groups,
                                 .search = search,
                                 .sweeps = 0};
          const QuantizedLinear without = gptq(W, H, scheme, options).solved.q;
          const double reference = loss(W, gptq(W, H, plain, options).solved.q, H);
          EXPECT_LE(loss(W, without, H), 1.05 * reference);
          options.sweeps = 2;
          const QuantizedLinear q = gptq(W, H, scheme, options).solved.q;
          ASSERT_NO_THROW(check(q, "layer"));
          EXPECT_LT(loss(W, q, H), loss(W, without, H));
          EXPECT_EQ(q.scale.offset, without.scale.offset);
          EXPECT_LE(loss(W, q, H), 1.05 * loss(W, gptq(W, H, plain, options).solved.q, H));
        }
      }
    }
  }
}

TEST(Gptq, ProgressiveGroupsStayEightBitIntegers) {
  const Matrix H = random_hessian(600, 256, 23);
  Matrix W = random_weights(70, 256, 24);
  W(5, 7) = 3.F;
  W(5, 8) = -3.F;
  const Scheme scheme = progressive_scheme(128);
  for (const bool static_groups : {true, false}) {
    for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kHessian}) {
      const QuantizedLinear q =
          gptq(W, H, scheme, {.static_groups = static_groups, .search = search}).solved.q;
      ASSERT_NO_THROW(check(q, "layer"));
      EXPECT_TRUE(fits_int8(q));
      const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
      EXPECT_LT(loss(W, q, H), loss(W, rtn.q, H)) << static_groups;
    }
  }
}

TEST(Gptq, TwoColumnsByHand) {
  // H = [[1, .9], [.9, 1]], scale 1. Column 0: .4 -> 0, error .4; column 1 moves by .4 * .9 = .36
  // to .66 -> 1. To nearest both are 0, whose loss .466 is above .146.
  Matrix H(2, 2);
  H << 1.F, 0.9F, 0.9F, 1.F;
  Matrix W(1, 2);
  W << 0.4F, 0.3F;
  Scheme scheme = integer_scheme(4, kAll, true, Dtype::kF32);
  const auto unit_scale = [](std::span<const float>, const Extremes&, const Grid&, bool) {
    return BlockParameters{.scale = 1.F};
  };
  RangeRule rule = range_rules().front();
  rule.fit = unit_scale;
  GptqOptions options = plain();
  options.damp = 0.;
  const LinearProblem problem = {.W = W, .scheme = scheme, .where = "layer", .rule = &rule};
  const GptqResult result =
      solve_gptq(problem, H, factorize_for_gptq(H, options, "layer"), options);
  const auto codes = result.solved.q.codes.values<uint8_t>();
  EXPECT_EQ(codes[0], 8);
  EXPECT_EQ(codes[1], 9);
  EXPECT_NEAR(loss(W, result.solved.q, H), 0.146, 1e-6);
}

TEST(Gptq, UncoupledColumnsAreRoundedToNearest) {
  const Matrix W = random_weights(70, 150, 1);
  Matrix H = Matrix::Zero(150, 150);
  for (int64_t k = 0; k < 150; ++k) H(k, k) = 1.F + static_cast<float>(k % 7);
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
  for (const bool act_order : {false, true}) {
    GptqOptions options = plain();
    options.act_order = act_order;
    EXPECT_EQ(fingerprint(gptq(W, H, scheme, options).solved.q), fingerprint(rtn.q));
  }
}

TEST(Gptq, LastColumnIsTheBestGivenTheOthers) {
  // Brute force over the 2^b codes of the column that is rounded last.
  const Scheme scheme = integer_scheme(3, kAll, false, Dtype::kF32);
  GptqOptions options = plain();
  options.damp = 0.;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Matrix H = random_hessian(20, 3, seed);
    const Matrix W = random_weights(1, 3, seed + 100);
    QuantizedLinear q = gptq(W, H, scheme, options).solved.q;
    const double found = loss(W, q, H);
    for (uint8_t code = 0; code < 8; ++code) {
      const auto chosen = q.codes.values<uint8_t>();
      const std::vector<uint8_t> codes = {chosen[0], chosen[1], code};
      QuantizedLinear other = q;
      other.codes = Tensor::copy_of<uint8_t>(Dtype::kU8, {1, 3}, codes);
      EXPECT_LE(found, loss(W, other, H) * (1. + 1e-5)) << seed;
    }
  }
}

TEST(Gptq, LosesLessThanRoundingToNearest) {
  const Matrix H = random_hessian(600, 200, 2);
  const Matrix W = random_weights(100, 200, 3);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {false, true}) {
      for (const int64_t group : {int64_t{32}, int64_t{64}, kAll}) {
        const Scheme scheme = integer_scheme(bits, group, symmetric, Dtype::kF16);
        const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
        const double nearest = loss(W, rtn.q, H);
        const auto run = [&](const GptqOptions& options) {
          const GptqResult result = gptq(W, H, scheme, options);
          EXPECT_NO_THROW(check(result.solved.q, "layer"));
          const double now = loss(W, result.solved.q, H);
          const double relative = std::sqrt(now / loss(W, H));
          EXPECT_NEAR(output_error(W, H, result.solved.q), relative, 1e-4 * relative);
          return now;
        };
        const double minmax = run({.search = ScaleSearch::kMinMax, .sweeps = 0});
        const double searched = run({.sweeps = 0});
        const double refined = run({});
        EXPECT_LT(minmax, nearest) << describe(scheme);
        EXPECT_LT(searched, nearest) << describe(scheme);
        EXPECT_LT(refined, searched) << describe(scheme);
        EXPECT_LT(refined, 0.7 * nearest) << describe(scheme);
      }
    }
  }
}

TEST(Gptq, ShapesThatDivideNothingAreSolved) {
  for (const int64_t K : {1, 2, 127, 129, 300}) {
    for (const int64_t N : {1, 65}) {
      const Matrix H = random_hessian(2 * K + 20, K, 4);
      const Matrix W = random_weights(N, K, 5);
      for (const bool is_static : {true, false}) {
        const Scheme scheme = integer_scheme(4, 48, false, Dtype::kF16);
        const GptqResult result = gptq(W, H, scheme, {.static_groups = is_static});
        EXPECT_NO_THROW(check(result.solved.q, "layer"));
        const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
        EXPECT_LE(loss(W, result.solved.q, H), loss(W, rtn.q, H) * (1. + 1e-5)) << N << " " << K;
      }
    }
  }
}

TEST(Gptq, GivenColumnGroupsAreStaticGroups) {
  // Column k in group k mod 3, against the columns sorted by group.
  const Matrix H = random_hessian(400, 96, 6);
  const Matrix W = random_weights(40, 96, 7);
  std::vector<int32_t> groups(96);
  std::vector<int64_t> order;
  for (size_t k = 0; k < 96; ++k) groups[k] = static_cast<int32_t>(k % 3);
  for (int64_t g = 0; g < 3; ++g) {
    for (int64_t k = g; k < 96; k += 3) order.push_back(k);
  }
  Matrix sorted_H(96, 96);
  Matrix sorted_W(40, 96);
  for (int64_t i = 0; i < 96; ++i) {
    sorted_W.col(i) = W.col(order[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < 96; ++j) {
      sorted_H(i, j) = H(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
    }
  }
  const Scheme scheme = integer_scheme(3, 32, false, Dtype::kF16);
  const GptqOptions options;
  const LinearProblem problem = {
      .W = W, .scheme = scheme, .group_of_column = groups, .where = "layer"};
  const GptqResult mixed = solve_gptq(problem, H, factorize_for_gptq(H, options, "layer"), options);
  const GptqResult plain_groups = gptq(sorted_W, sorted_H, scheme, options);
  EXPECT_NO_THROW(check(mixed.solved.q, "layer"));
  EXPECT_EQ(mixed.solved.q.group_of_column, groups);
  // The same but for the order of sums in float.
  const double expected = output_error(sorted_W, sorted_H, plain_groups.solved.q);
  EXPECT_NEAR(output_error(W, H, mixed.solved.q), expected, 0.01 * expected);
}

TEST(Gptq, SameBytesWithOneThreadAndWithTwo) {
  const int threads = omp_get_max_threads();
  const Matrix H = random_hessian(500, 330, 8);
  const Matrix W = random_weights(600, 330, 9);
  for (const bool is_static : {true, false}) {
    const GptqOptions options = {.static_groups = is_static};
    std::vector<std::array<uint64_t, 2>> prints;
    std::vector<double> errors;
    for (const int count : {1, 2, 2}) {
      omp_set_num_threads(count);
      const GptqResult result = gptq(W, H, integer_scheme(3, 64, false, Dtype::kF16), options);
      prints.push_back(fingerprint(result.solved.q));
      errors.push_back(output_error(W, H, result.solved.q));
    }
    EXPECT_EQ(prints[0], prints[1]);
    EXPECT_EQ(prints[1], prints[2]);
    EXPECT_EQ(errors[0], errors[1]);
  }
  omp_set_num_threads(threads);
}

TEST(Gptq, DeadColumnsAreRoundedToNearestAndMoveNothing) {
  Matrix H = random_hessian(400, 64, 10);
  Matrix W = random_weights(30, 64, 11);
  W.col(5) = W.col(5).cwiseMin(0.01F).cwiseMax(-0.01F);
  for (const int64_t k : {5, 40}) {
    H.row(k).setZero();
    H.col(k).setZero();
  }
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  GptqOptions options = plain();
  options.act_order = true;
  const GptqResult result = gptq(W, H, scheme, options);
  EXPECT_EQ(result.dead_columns, 2);
  const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
  const Matrix ours = dequantize(result.solved.q);
  const Matrix nearest = dequantize(rtn.q);
  EXPECT_TRUE(ours.col(5) == nearest.col(5));
  EXPECT_TRUE(ours.col(40) == nearest.col(40));
  // Other weights in a dead column, too small to be the end of a range, change no other code.
  Matrix other = W;
  other.col(5) *= -0.5F;
  const Matrix again = dequantize(gptq(other, H, scheme, options).solved.q);
  EXPECT_FALSE(again.col(5) == ours.col(5));
  EXPECT_TRUE(again.leftCols(5) == ours.leftCols(5));
  EXPECT_TRUE(again.middleCols(6, 26) == ours.middleCols(6, 26));
  EXPECT_TRUE(again.rightCols(32) == ours.rightCols(32));
}

TEST(Gptq, InputsThatAreAllDeadAreRoundedToNearest) {
  const Matrix W = random_weights(20, 64, 12);
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  const GptqResult result = gptq(W, Matrix::Zero(64, 64), scheme, GptqOptions{});
  EXPECT_EQ(result.dead_columns, 64);
  EXPECT_EQ(output_error(W, Matrix::Zero(64, 64), result.solved.q), 0.);
  const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
  EXPECT_EQ(fingerprint(result.solved.q), fingerprint(rtn.q));
}

TEST(Gptq, SingularHessiansAreSolvedWithTheirDamping) {
  const Matrix H = random_hessian(10, 128, 13);  // rank 10
  const Matrix W = random_weights(30, 128, 14);
  const Scheme scheme = integer_scheme(3, 64, false, Dtype::kF16);
  const GptqResult result = gptq(W, H, scheme, GptqOptions{});
  EXPECT_EQ(result.damping, 0.01);
  EXPECT_EQ(result.escalations, 0);
  GptqOptions options;
  options.damp = 0.;
  const GptqResult undamped = gptq(W, H, scheme, options);
  EXPECT_GE(undamped.escalations, 1);
  EXPECT_GT(undamped.damping, 0.);
  const SolverResult rtn = solve_rtn({.W = W, .scheme = scheme, .where = "layer"});
  EXPECT_LT(loss(W, result.solved.q, H), 0.5 * loss(W, rtn.q, H));
  EXPECT_LT(loss(W, undamped.solved.q, H), 0.5 * loss(W, rtn.q, H));
}

TEST(Gptq, GroupsOfZerosStayZero) {
  const Matrix H = random_hessian(400, 128, 15);
  Matrix W = random_weights(20, 128, 16);
  W.middleCols(32, 32).setZero();
  W.row(3).setZero();
  for (const ScaleSearch search :
       {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kHessian}) {
    const GptqResult result =
        gptq(W, H, integer_scheme(4, 32, false, Dtype::kF16), {.search = search, .sweeps = 0});
    const QuantizedLinear& q = result.solved.q;
    EXPECT_NO_THROW(check(q, "layer"));
    EXPECT_EQ(block_parameters(q, 0, 40).scale, 1.F);
    EXPECT_TRUE(dequantize(q).row(3).isZero(0.F));
    EXPECT_TRUE(dequantize(q).middleCols(32, 32).isZero(0.F));
  }
}

std::string message_of(const Matrix& W, const Matrix& H, const Scheme& scheme,
                       const GptqOptions& options = {}) {
  try {
    gptq(W, H, scheme, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Gptq, WhatItCannotTakeIsRefused) {
  const Matrix H = random_hessian(100, 64, 17);
  Matrix W = random_weights(4, 64, 18);
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  EXPECT_EQ(message_of(W, H, integer_scheme(1, 32, true, Dtype::kF16)),
            "layer: gptq to int1 g32 symmetric (expected integers of 2 to 8 bits)");
  EXPECT_EQ(message_of(W, H, integer_scheme(8, kAll, true, Dtype::kF32, true)),
            "layer: gptq to int8 per tensor symmetric (expected groups or whole rows)");
  EXPECT_EQ(message_of(W.leftCols(32), H, scheme), "layer: a Hessian of 64 columns for 32 inputs");
  W(2, 9) = std::nanf("");
  EXPECT_EQ(message_of(W, H, scheme), "layer: NaN at row 2, column 9 (is the checkpoint damaged?)");
  W(2, 9) = 1e6F;
  EXPECT_EQ(message_of(W, H, scheme),
            "layer: the scale of row 2, group 0 is infinite in F16 (store scales as BF16 or F32)");
  Matrix bad = H;
  bad(1, 3) = std::numeric_limits<float>::infinity();
  EXPECT_EQ(message_of(random_weights(4, 64, 18), bad, scheme),
            "layer: Hessian: infinity at row 1, column 3 (are there NaN in the activations?)");
}

TEST(Gptq, RowsOfALargerMatrixAreTakenInPlace) {
  const Matrix H = random_hessian(200, 64, 19);
  const Matrix W = random_weights(40, 100, 20);
  const GptqOptions options;
  const Factorization f = factorize_for_gptq(H, options, "layer");
  const Scheme scheme = integer_scheme(4, 32, false, Dtype::kF16);
  const Matrix copy = W.leftCols(64);
  const LinearProblem part = {.W = W.leftCols(64), .scheme = scheme, .where = "layer"};
  const LinearProblem whole = {.W = copy, .scheme = scheme, .where = "layer"};
  EXPECT_EQ(fingerprint(solve_gptq(part, H, f, options).solved.q),
            fingerprint(solve_gptq(whole, H, f, options).solved.q));
}

}  // namespace
}  // namespace nibble
