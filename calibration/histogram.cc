#include "calibration/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kParallelValues = 1 << 16;
constexpr float kNewShare = 0.1f;  // of a batch in the moving averages

// floor(x), |x| < 2^31; a call of the library's would cost more than the rest.
int64_t floor_of(double x) {
  const auto toward_zero = static_cast<int64_t>(static_cast<int32_t>(x));
  return toward_zero - (x < static_cast<double>(toward_zero) ? 1 : 0);
}

int64_t bin_of(float x, int exponent) {
  return floor_of(static_cast<double>(x) * std::ldexp(1., -exponent));
}

// Of the narrowest of that many bins that hold 0 and both extremes, down to the spacing of floats
// at the larger one.
int exponent_for(float low, float high, int64_t bins) {
  const float magnitude = std::max(-low, high);
  int exponent = -std::numeric_limits<float>::digits;
  exponent += magnitude == 0.f ? std::numeric_limits<float>::min_exponent : std::ilogb(magnitude);
  while (bin_of(high, exponent) - bin_of(low, exponent) >= bins) ++exponent;
  return exponent;
}

struct Extremes {
  float smallest = std::numeric_limits<float>::infinity();
  float largest = -std::numeric_limits<float>::infinity();
};

Extremes extremes_of(ConstMatrixRef X, const std::string& where) {
  Extremes found;
  float smallest = found.smallest;
  float largest = found.largest;
  bool finite = true;
#pragma omp parallel for schedule(static) if (X.size() > kParallelValues) \
    reduction(min : smallest) reduction(max : largest) reduction(&& : finite)
  for (int64_t t = 0; t < X.rows(); ++t) {
    finite = finite && X.row(t).allFinite();
    smallest = std::min(smallest, X.row(t).minCoeff());
    largest = std::max(largest, X.row(t).maxCoeff());
  }
  for (int64_t t = 0; t < X.rows() && !finite; ++t) {
    for (int64_t k = 0; k < X.cols(); ++k) {
      if (std::isfinite(X(t, k))) continue;
      throw Error(where, std::string(std::isnan(X(t, k)) ? "NaN" : "infinity") + " at row " +
                             std::to_string(t) + ", column " + std::to_string(k));
    }
  }
  found.smallest = smallest;
  found.largest = largest;
  return found;
}

}  // namespace

double Histogram::width() const { return std::ldexp(1., exponent); }

double Histogram::edge(int64_t i) const {
  return std::ldexp(static_cast<double>(first + i), exponent);
}

void Histogram::fit_bins() {
  const int old_exponent = exponent;
  const int64_t old_first = first;
  const float low = std::min(smallest, 0.f);
  exponent = exponent_for(low, std::max(largest, 0.f), kBins);
  first = bin_of(low, exponent);
  const std::vector<int64_t> old = std::exchange(counts, std::vector<int64_t>(kBins));
  add_bins(old, old_first, old_exponent);
}

void Histogram::add_bins(std::span<const int64_t> others, int64_t others_first,
                         int others_exponent) {
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i] == 0) continue;
    const auto bin = static_cast<double>(others_first + static_cast<int64_t>(i));
    const int64_t wider = floor_of(std::ldexp(bin, others_exponent - exponent));
    counts[static_cast<size_t>(wider - first)] += others[i];
  }
}

Histogram Histogram::coarse(int64_t bins) const {
  Histogram result = *this;
  const float low = std::min(smallest, 0.f);
  result.exponent = std::max(exponent, exponent_for(low, std::max(largest, 0.f), bins));
  result.first = bin_of(low, result.exponent);
  result.counts.assign(static_cast<size_t>(bins), 0);
  result.add_bins(counts, first, exponent);
  return result;
}

void Histogram::add(const Histogram& other) {
  if (other.total == 0) return;
  if (total == 0) {
    *this = other;
    return;
  }
  smallest = std::min(smallest, other.smallest);
  largest = std::max(largest, other.largest);
  const auto share = static_cast<float>(static_cast<double>(other.total) /
                                        static_cast<double>(total + other.total));
  moving_smallest += share * (other.moving_smallest - moving_smallest);
  moving_largest += share * (other.moving_largest - moving_largest);
  fit_bins();
  add_bins(other.counts, other.first, other.exponent);
  total += other.total;
}

void Histogram::add(ConstMatrixRef X, const std::string& where) {
  if (X.size() == 0) return;
  const Extremes batch = extremes_of(X, where);
  const bool is_first = total == 0;
  smallest = is_first ? batch.smallest : std::min(smallest, batch.smallest);
  largest = is_first ? batch.largest : std::max(largest, batch.largest);
  const auto moved = [is_first](float average, float value) {
    return is_first ? value : (1.f - kNewShare) * average + kNewShare * value;
  };
  moving_smallest = moved(moving_smallest, batch.smallest);
  moving_largest = moved(moving_largest, batch.largest);

  fit_bins();
  total += X.size();

  const double inverse = std::ldexp(1., -exponent);
#pragma omp parallel if (X.size() > kParallelValues)
  {
    std::vector<int64_t> own(static_cast<size_t>(kBins));
#pragma omp for schedule(static)
    for (int64_t t = 0; t < X.rows(); ++t) {
      const float* const row = X.data() + t * X.outerStride();
      for (int64_t k = 0; k < X.cols(); ++k) {
        ++own[static_cast<size_t>(floor_of(static_cast<double>(row[k]) * inverse) - first)];
      }
    }
#pragma omp critical
    for (size_t i = 0; i < own.size(); ++i) counts[i] += own[i];
  }
}

}  // namespace nibble
