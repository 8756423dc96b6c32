// Ranges: from a histogram of values to the interval that b-bit integers should cover. For static
// activations, and for weights.
//
// A range becomes the grid of src/quantized/range_rule.h, row "nibble": step = (high - low) /
// (2^b - 1); symmetric, where low = -high, levels -2^(b-1) .. 2^(b-1) - 1 times the step;
// asymmetric, levels (c - z) times the step, c = 0 .. 2^b - 1, z = clamp(rne(-low / step), 0,
// 2^b - 1). Inside a bin, values count as spread evenly.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "calibration/histogram.h"

namespace nibble {

enum class RangeMethod { kMinMax, kMovingAverage, kPercentile, kMse, kEntropy };

struct RangeOptions {
  int bits = 8;  // 2 to 8
  bool symmetric = true;
  double percentile = 99.99;  // kPercentile: of the values, in per cent
};

// low <= 0 <= high, so that 0 stays 0, and nothing beyond the extremes (symmetric: the larger one
// in magnitude); both are 0 only where all values are.
struct Range {
  float low = 0.f;
  float high = 0.f;
};

struct RangeMethodRow {
  RangeMethod method;
  std::string_view name;
  std::string_view summary;
  std::string_view source;
  Range (*find)(const Histogram& histogram, const RangeOptions& options);
};

// In the order of the enum, which is that shown to users.
std::span<const RangeMethodRow> range_methods();
// Throws Error with the nearest name.
const RangeMethodRow& range_method(const std::string& name);

// Throws Error for an empty histogram and for options out of bounds.
Range find_range(RangeMethod method, const Histogram& histogram, const RangeOptions& options);

// The mean of (x - Q(x))^2 over the histogram's density, Q the rounding to the range's grid; the
// integral is exact. What kMse minimises over ranges that end at edges of bins.
double mean_square_error(const Histogram& histogram, Range range, const RangeOptions& options);

}  // namespace nibble
