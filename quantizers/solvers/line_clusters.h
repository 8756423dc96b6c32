// Weighted k-means of numbers on a line: clusters are intervals, so the numbers are sorted once and
// every step after that runs on prefix sums. Private to quantizers/solvers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

// load, then any of the others. Owns the memory of its steps, so one per thread.
class LineClusters {
 public:
  // values: finite. weights: of the same length, finite, not negative; empty or all zero: all
  // alike. Values of weight zero take no part. Of more than 2^16 values, those that agree in sign,
  // exponent and 11 bits of mantissa (as equal BF16 or normal F16 do) go to the same cluster; their
  // sums are exact.
  void load(std::span<const float> values, std::span<const float> weights);
  // Values, or such sets of them, that clusters are made of.
  int64_t distinct() const { return static_cast<int64_t>(x_.size()); }

  // Centers, ascending, min(clusters, distinct()) of them, that minimise
  //   loss = sum_i weight_i min_c (value_i - center_c)^2,
  // the global minimum. Takes time clusters * distinct * log(distinct) at most and as many integers
  // of memory as clusters * distinct.
  std::vector<double> optimum(int64_t clusters);
  // The least loss of `starts` runs of Lloyd's iteration, each from centers that k-means++ draws. A
  // cluster that loses its last value takes half of the one with the largest loss.
  std::vector<double> best_of_seeds(int64_t clusters, int64_t starts, uint64_t seed);
  // Of centers in ascending order.
  double loss(std::span<const double> centers);

 private:
  void start_value(double x);
  void add(double w, double s, double q);
  void load_sorted(std::span<const float> values, std::span<const float> weights);
  void load_cells(std::span<const float> values, std::span<const float> weights);
  double mass(int64_t first, int64_t end, double center) const;
  double spread(int64_t first, int64_t end) const;
  double mean(int64_t first, int64_t end) const;
  void fill_layer(int64_t layer, int64_t first, int64_t last, int64_t low, int64_t high);
  void cut(std::span<const double> centers);
  bool move_cuts(std::span<const double> centers);
  void split_largest(std::vector<double>& centers, size_t empty) const;
  void descend(std::vector<double>& centers);
  std::vector<double> draw_seeds(int64_t clusters, uint64_t& state);

  std::vector<double> x_;  // [n] distinct values, or means of sets, ascending
  std::vector<double> w_;  // [n + 1] sums of weight, weight * x, weight * x^2 of the first i values
  std::vector<double> s_;
  std::vector<double> q_;
  std::vector<int64_t> cuts_;      // [clusters + 1] first value of each cluster, and n
  std::vector<uint64_t> entries_;  // of load_sorted: value, weight
  std::vector<uint64_t> room_;
  std::vector<double> least_;   // [n + 1] loss of the first i values, by one cluster less
  std::vector<double> next_;    // [n + 1] the same with that cluster
  std::vector<double> offset_;  // [n + 1] least_ - q_
  std::vector<int32_t> start_;  // [clusters][n + 1] first value of the last cluster
};

}  // namespace nibble
