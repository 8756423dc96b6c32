#include "calibration/stats.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/hessian.h"
#include "src/tensor/matrix.h"

namespace nibble {

InputSums::InputSums(int64_t K, bool with_histogram)
    : gram_(Matrix::Zero(K, K)), with_histogram_(with_histogram) {}

void InputSums::add(ConstMatrixRef X, const std::string& where) {
  add_columns(X, tokens_, where, columns_);
  add_gram(X, gram_);
  if (with_histogram_) histogram_.add(X, where);
  tokens_ += X.rows();
}

InputStatistics InputSums::finish() && {
  InputStatistics statistics = statistics_of(std::move(gram_), columns_, tokens_);
  statistics.histogram = std::move(histogram_);
  return statistics;
}

InputStatistics statistics_of(Matrix gram, const ColumnSums& columns, int64_t tokens) {
  InputStatistics statistics;
  statistics.tokens = tokens;
  const double count = static_cast<double>(std::max<int64_t>(1, tokens));
  mirror_upper(gram);
  statistics.H = std::move(gram);
  statistics.H *= static_cast<float>(1. / count);
  const auto K = statistics.H.rows();
  statistics.mean_absolute = Vector::Zero(K);
  statistics.largest = Vector::Zero(K);
  if (tokens == 0) return statistics;
  for (int64_t k = 0; k < K; ++k) {
    const auto at = static_cast<size_t>(k);
    statistics.mean_absolute(k) = static_cast<float>(columns.absolute[at] / count);
    statistics.largest(k) = columns.largest[at];
  }
  return statistics;
}

void merge(InputStatistics& statistics, const InputStatistics& others) {
  const double total = static_cast<double>(statistics.tokens + others.tokens);
  const auto share = static_cast<float>(static_cast<double>(others.tokens) / total);
  statistics.H += share * (others.H - statistics.H);
  statistics.mean_absolute += share * (others.mean_absolute - statistics.mean_absolute);
  statistics.largest = statistics.largest.cwiseMax(others.largest);
  statistics.histogram.add(others.histogram);
  statistics.tokens += others.tokens;
}

void divide_inputs(InputStatistics& statistics, const Vector& scales) {
  const Vector inverse = scales.cwiseInverse();
  statistics.H = inverse.asDiagonal() * statistics.H * inverse.asDiagonal();
  statistics.mean_absolute = statistics.mean_absolute.cwiseProduct(inverse);
  statistics.largest = statistics.largest.cwiseProduct(inverse);
  statistics.histogram = {};
}

}  // namespace nibble
