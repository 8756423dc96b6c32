#include "tests/transforms/groups.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "calibration/stats.h"
#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

InputStatistics statistics_in_double(const Eigen::MatrixXd& X) {
  InputStatistics statistics;
  const auto T = static_cast<double>(X.rows());
  statistics.tokens = X.rows();
  statistics.H = (X.transpose() * X / T).cast<float>();
  statistics.mean_absolute = (X.cwiseAbs().colwise().sum().transpose() / T).cast<float>();
  statistics.largest = X.cwiseAbs().colwise().maxCoeff().transpose().cast<float>();
  return statistics;
}

ScaleGroup make_golden_group() {
  const nlohmann::json& file = golden_transforms();
  uint32_t state = 2026;
  const auto draw = [&state] {
    state = state * 1664525U + 1013904223U;
    return static_cast<double>(static_cast<int32_t>(state >> 8) - (1 << 23)) * 0x1p-23;
  };
  const auto K = file["K"].get<int64_t>();
  Eigen::MatrixXd X(file["T"].get<int64_t>(), K);
  for (int64_t t = 0; t < X.rows(); ++t) {
    for (int64_t k = 0; k < K; ++k) X(t, k) = draw() * std::ldexp(1., -static_cast<int>(k * 7 % 6));
  }
  for (int64_t k = 1; k < K; ++k) X.col(k) += X.col(k - 1) / 4.;
  X.col(17) *= 128.;
  ScaleGroup group;
  group.inputs = statistics_in_double(X);
  for (const auto& rows : file["rows"]) {
    Matrix W(rows.get<int64_t>(), K);
    for (int64_t n = 0; n < W.rows(); ++n) {
      for (int64_t k = 0; k < K; ++k) {
        W(n, k) = static_cast<float>(draw() * std::ldexp(1., -static_cast<int>(n % 3 + k * 5 % 3)));
      }
    }
    group.layers.push_back({.name = "layer", .W = std::move(W), .scheme = {}});
  }
  return group;
}

}  // namespace

const nlohmann::json& golden_transforms() {
  static const auto kFile = nlohmann::json::parse(
      read_file(own_test_data().parent_path() / "golden" / "transforms.json"));
  return kFile;
}

const ScaleGroup& golden_group() {
  static const ScaleGroup kGroup = make_golden_group();
  return kGroup;
}

Scheme golden_scheme(const nlohmann::json& row, int64_t group_size) {
  return integer_scheme(row["bits"].get<int>(), group_size == -1 ? kAll : group_size,
                        row["symmetric"].get<bool>(),
                        *dtype_from_name(row["scale_type"].get<std::string>()));
}

InputStatistics statistics_of(const Matrix& X) { return statistics_in_double(X.cast<double>()); }

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix matrix(rows, columns);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

ScaleGroup random_group(const std::vector<int64_t>& rows, int64_t K, const Scheme& scheme,
                        uint32_t seed) {
  Matrix X = random_matrix(2 * K, K, seed);
  const Matrix sizes = random_matrix(1, K, seed + 1);
  for (int64_t k = 0; k < K; ++k) X.col(k) *= std::exp(sizes(0, k));
  ScaleGroup group;
  group.inputs = statistics_of(X);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto layer_seed = static_cast<uint32_t>(seed + 2 + i);
    group.layers.push_back({.name = "layer " + std::to_string(i),
                            .W = 0.02F * random_matrix(rows[i], K, layer_seed),
                            .scheme = scheme});
  }
  return group;
}

double exact_loss(const Matrix& W, const Matrix& V, const Matrix& H) {
  const Eigen::MatrixXd E = W.cast<double>() - V.cast<double>();
  return (E * H.cast<double>()).cwiseProduct(E).sum();
}

}  // namespace nibble
