// With W, S, Q the sums of w, w x, w x^2 over the values of an interval, its loss around c is
// Q - 2 c S + c^2 W, least at c = S / W, where it is Q - S^2 / W.
//   optimum: L_k(i) = min_j L_{k-1}(j) + loss(j .. i). The best j never falls as i or k grows, so
//   the middle i first, then both halves between the j of their neighbours (Wang and Song 2011,
//   "Ckmeans.1d.dp"; the divide and conquer is Gronlund et al. 2017, arXiv 1701.07204, section 2).
//   Lloyd 1982: borders halfway between centers, centers to means, until no border moves.
//   k-means++ (Arthur and Vassilvitskii 2007): the next center is a value drawn with probability
//   in proportion to its weighted squared distance to the nearest center so far.
#include "quantizers/solvers/line_clusters.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace nibble {
namespace {

constexpr int kDigitBits = 11;  // three digits make a key; their counts fit the first-level cache
constexpr size_t kFewEntries = 512;  // below this comparing beats counting
constexpr size_t kManyValues = 1 << 16;
constexpr int kCellBits = 20;  // sign, exponent and 11 bits of mantissa

// Unsigned integers in the order of the floats; -0 is 0.
uint32_t ordered(float value) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
float from_ordered(uint32_t key) {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffU : ~key);
}

// By the upper 32 bits; entries and room have the same length.
void sort_entries(std::vector<uint64_t>& entries, std::vector<uint64_t>& room) {
  if (entries.size() < kFewEntries) {
    std::sort(entries.begin(), entries.end());
    return;
  }
  for (int shift = 32; shift < 64; shift += kDigitBits) {
    std::array<uint32_t, (1 << kDigitBits) + 1> start{};
    const auto digit = [shift](uint64_t entry) {
      return static_cast<size_t>(entry >> shift) & ((1 << kDigitBits) - 1);
    };
    for (const uint64_t entry : entries) ++start[digit(entry) + 1];
    for (size_t d = 1; d < start.size(); ++d) start[d] += start[d - 1];
    for (const uint64_t entry : entries) room[start[digit(entry)]++] = entry;
    entries.swap(room);
  }
}

// SplitMix64 (Steele, Lea and Flood 2014): uniform in [0, 1).
double draw(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

}  // namespace

void LineClusters::load(std::span<const float> values, std::span<const float> weights) {
  if (std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0.f; })) weights = {};
  x_.clear();
  for (auto* sums : {&w_, &s_, &q_}) sums->assign(1, 0.);
  if (values.size() > kManyValues) {
    load_cells(values, weights);
  } else {
    load_sorted(values, weights);
  }
}

void LineClusters::add(double w, double s, double q) {
  w_.back() += w;
  s_.back() += s;
  q_.back() += q;
}

void LineClusters::start_value(double x) {
  x_.push_back(x);
  for (auto* sums : {&w_, &s_, &q_}) sums->push_back(sums->back());
}

void LineClusters::load_sorted(std::span<const float> values, std::span<const float> weights) {
  entries_.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    const float weight = weights.empty() ? 1.f : weights[i];
    if (weight == 0.f) continue;
    entries_.push_back(uint64_t{ordered(values[i])} << 32 | std::bit_cast<uint32_t>(weight));
  }
  room_.resize(entries_.size());
  sort_entries(entries_, room_);
  for (const uint64_t entry : entries_) {
    const double x = from_ordered(static_cast<uint32_t>(entry >> 32));
    const double weight = std::bit_cast<float>(static_cast<uint32_t>(entry));
    if (x_.empty() || x != x_.back()) start_value(x);
    add(weight, weight * x, weight * x * x);
  }
}

void LineClusters::load_cells(std::span<const float> values, std::span<const float> weights) {
  struct Cell {
    double w = 0.;
    double s = 0.;
    double q = 0.;
  };
  std::vector<Cell> cells(size_t{1} << kCellBits);
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = values[i];
    const double weight = weights.empty() ? 1. : weights[i];
    Cell& cell = cells[ordered(values[i]) >> (32 - kCellBits)];
    cell.w += weight;
    cell.s += weight * x;
    cell.q += weight * x * x;
  }
  for (const Cell& cell : cells) {
    if (cell.w == 0.) continue;
    start_value(cell.s / cell.w);
    add(cell.w, cell.s, cell.q);
  }
}

// Loss of values [first, end) around a center; sums of rounded numbers may fall below zero.
double LineClusters::mass(int64_t first, int64_t end, double center) const {
  const auto i = static_cast<size_t>(first);
  const auto j = static_cast<size_t>(end);
  const double loss =
      q_[j] - q_[i] - 2. * center * (s_[j] - s_[i]) + center * center * (w_[j] - w_[i]);
  return std::max(0., loss);
}

double LineClusters::mean(int64_t first, int64_t end) const {
  const auto i = static_cast<size_t>(first);
  const auto j = static_cast<size_t>(end);
  return (s_[j] - s_[i]) / (w_[j] - w_[i]);
}

double LineClusters::spread(int64_t first, int64_t end) const {
  return mass(first, end, mean(first, end));
}

// next_[i] and start_[layer][i] for i in [first, last]; the last cluster starts in [low, high].
void LineClusters::fill_layer(int64_t layer, int64_t first, int64_t last, int64_t low,
                              int64_t high) {
  if (first > last) return;
  const int64_t middle = (first + last) / 2;
  const auto i = static_cast<size_t>(middle);
  const size_t width = x_.size() + 1;
  int32_t* const start = start_.data() + static_cast<size_t>(layer) * width;
  // One cluster less starts its last one no later.
  const int64_t from = std::max<int64_t>(low, layer > 1 ? start[middle - std::ssize(x_) - 1] : 0);
  const int64_t to = std::min(high, middle - 1);
  double least = std::numeric_limits<double>::infinity();
  int64_t best = from;
  for (int64_t at = from; at <= to; ++at) {
    const auto j = static_cast<size_t>(at);
    const double s = s_[i] - s_[j];
    const double loss = offset_[j] - s * s / (w_[i] - w_[j]);
    if (loss < least) {
      least = loss;
      best = at;
    }
  }
  next_[i] = q_[i] + least;
  start[middle] = static_cast<int32_t>(best);
  fill_layer(layer, first, middle - 1, low, best);
  fill_layer(layer, middle + 1, last, best, high);
}

std::vector<double> LineClusters::optimum(int64_t clusters) {
  if (distinct() <= clusters) return x_;
  const int64_t n = distinct();
  const auto width = static_cast<size_t>(n) + 1;
  start_.resize(static_cast<size_t>(clusters) * width);
  offset_.resize(width);
  next_.assign(width, 0.);
  least_.assign(width, 0.);
  for (int64_t i = 1; i <= n; ++i) least_[static_cast<size_t>(i)] = spread(0, i);
  for (int64_t layer = 1; layer < clusters; ++layer) {
    for (size_t i = 0; i < width; ++i) offset_[i] = least_[i] - q_[i];
    const bool is_last = layer + 1 == clusters;  // of it only L(n) is wanted
    fill_layer(layer, is_last ? n : layer + 1, n, layer, n - 1);
    least_.swap(next_);
  }
  std::vector<double> centers(static_cast<size_t>(clusters));
  int64_t end = n;
  for (int64_t layer = clusters - 1; layer >= 0; --layer) {
    const size_t at = static_cast<size_t>(layer) * width + static_cast<size_t>(end);
    const int64_t first = layer == 0 ? 0 : start_[at];
    centers[static_cast<size_t>(layer)] = mean(first, end);
    end = first;
  }
  return centers;
}

// Each value to its nearest center, the lower of two as near.
void LineClusters::cut(std::span<const double> centers) {
  cuts_.assign(centers.size() + 1, 0);
  cuts_.back() = distinct();
  for (size_t c = 1; c < centers.size(); ++c) {
    const double border = (centers[c - 1] + centers[c]) / 2.;
    cuts_[c] = std::upper_bound(x_.begin(), x_.end(), border) - x_.begin();
  }
}

// The same from cuts that are nearly right; whether any moved.
bool LineClusters::move_cuts(std::span<const double> centers) {
  bool moved = false;
  for (size_t c = 1; c < centers.size(); ++c) {
    const double border = (centers[c - 1] + centers[c]) / 2.;
    int64_t at = cuts_[c];
    while (at < distinct() && x_[static_cast<size_t>(at)] <= border) ++at;
    while (at > 0 && x_[static_cast<size_t>(at) - 1] > border) --at;
    moved = moved || at != cuts_[c];
    cuts_[c] = at;
  }
  return moved;
}

// Gives the empty cluster the upper part, beyond the mean, of the one with the largest loss among
// those with more than one value.
void LineClusters::split_largest(std::vector<double>& centers, size_t empty) const {
  size_t largest = 0;
  double most = -1.;
  for (size_t c = 0; c < centers.size(); ++c) {
    if (cuts_[c + 1] - cuts_[c] < 2) continue;
    const double loss = spread(cuts_[c], cuts_[c + 1]);
    if (loss > most) {
      most = loss;
      largest = c;
    }
  }
  const int64_t first = cuts_[largest];
  const int64_t end = cuts_[largest + 1];
  const double border = mean(first, end);
  const int64_t upper =
      std::upper_bound(x_.begin() + first + 1, x_.begin() + end - 1, border) - x_.begin();
  centers[largest] = mean(first, upper);
  centers[empty] = mean(upper, end);
  std::sort(centers.begin(), centers.end());
}

void LineClusters::descend(std::vector<double>& centers) {
  cut(centers);
  do {
    for (size_t c = 0; c < centers.size(); ++c) {
      if (cuts_[c] < cuts_[c + 1]) {
        centers[c] = mean(cuts_[c], cuts_[c + 1]);
        continue;
      }
      split_largest(centers, c);
      cut(centers);
      c = SIZE_MAX;  // all means again
    }
  } while (move_cuts(centers));
}

std::vector<double> LineClusters::draw_seeds(int64_t clusters, uint64_t& state) {
  const double first = draw(state) * w_.back();
  const auto at = std::upper_bound(w_.begin() + 1, w_.end() - 1, first) - w_.begin() - 1;
  std::vector<double> centers = {x_[static_cast<size_t>(at)]};
  std::vector<double> masses;
  while (std::ssize(centers) < clusters) {
    cut(centers);
    masses.clear();
    double total = 0.;
    for (size_t c = 0; c < centers.size(); ++c) {
      masses.push_back(mass(cuts_[c], cuts_[c + 1], centers[c]));
      total += masses.back();
    }
    double rest = draw(state) * total;
    size_t c = 0;
    while (c + 1 < masses.size() && rest >= masses[c]) rest -= masses[c++];
    int64_t low = cuts_[c];
    int64_t high = cuts_[c + 1] - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (mass(cuts_[c], middle + 1, centers[c]) > rest) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const double chosen = x_[static_cast<size_t>(low)];
    centers.insert(std::upper_bound(centers.begin(), centers.end(), chosen), chosen);
  }
  return centers;
}

std::vector<double> LineClusters::best_of_seeds(int64_t clusters, int64_t starts, uint64_t seed) {
  if (distinct() <= clusters) return x_;
  std::vector<double> best;
  double least = std::numeric_limits<double>::infinity();
  uint64_t state = seed;
  for (int64_t start = 0; start < starts; ++start) {
    std::vector<double> centers = draw_seeds(clusters, state);
    descend(centers);
    const double found = loss(centers);
    if (start > 0 && found >= least) continue;
    least = found;
    best = std::move(centers);
  }
  return best;
}

double LineClusters::loss(std::span<const double> centers) {
  cut(centers);
  double total = 0.;
  for (size_t c = 0; c < centers.size(); ++c) total += mass(cuts_[c], cuts_[c + 1], centers[c]);
  return total;
}

}  // namespace nibble
