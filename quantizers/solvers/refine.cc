#include "quantizers/solvers/refine.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "kernels/blas_tile.h"
#include "kernels/fixed_matmul.h"
#include "kernels/fixed_paths.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/gptq_lanes.h"
#include "quantizers/solvers/row_tile.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

constexpr int64_t kPanelColumns = kFixedGroup;
// How far one step may move a scale: beyond, codes at the ends of the grid make it diverge.
constexpr float kSmallestStep = 0.3f;
constexpr float kLargestStep = 3.f;
// Levels of a group that are all alike have no scale apart from their minimum.
constexpr float kSingular = 1e-5f;

size_t at(int64_t index) { return static_cast<size_t>(index); }

// Columns of one group that are visited together, at most kBlockColumns neighbours.
struct Chunk {
  int64_t first = 0;
  int64_t columns = 0;
  std::vector<int32_t> order;  // [columns] relative to first, by falling H_kk
  Matrix coupling;             // [columns, columns] in that order: H_ki / H_kk
};

struct Group {
  int64_t index = 0;
  int64_t first = 0;
  int64_t columns = 0;
  std::vector<Chunk> chunks;  // by falling sum of H_kk
  Vector reach;               // [columns] (H + damping) 1 within the group
};

// Neighbouring groups whose gradients are formed at once.
struct Panel {
  int64_t first = 0;
  int64_t columns = 0;
  std::vector<Group> groups;  // by falling sum of H_kk
};

// What the tiles of a layer share. Groups are neighbours in `columns`, and H is in that order.
struct Layer {
  ConstMatrixRef W;
  ConstMatrixRef H;
  FixedRows rounded_H;
  float damping = 0.f;
  std::vector<int32_t> columns;  // [K]
  std::vector<float> inverse;    // [K] 1 / (H_kk + damping); 0 where that is 0
  std::vector<Panel> panels;     // by falling sum of H_kk
  StorableScales storable;
  std::optional<StorableScales> storable_minimums;
  LaneLevels levels;
  bool moves_parameters = true;  // no rows share them
};

double mass(ConstMatrixRef H, int64_t first, int64_t columns) {
  return H.diagonal().segment(first, columns).cast<double>().sum();
}

template <typename Part>
void sort_by_mass(ConstMatrixRef H, std::vector<Part>& parts) {
  std::stable_sort(parts.begin(), parts.end(), [&](const Part& a, const Part& b) {
    return mass(H, a.first, a.columns) > mass(H, b.first, b.columns);
  });
}

Chunk make_chunk(const Layer& layer, int64_t first, int64_t columns) {
  Chunk chunk = {first, columns, std::vector<int32_t>(at(columns)), Matrix(columns, columns)};
  std::iota(chunk.order.begin(), chunk.order.end(), 0);
  std::stable_sort(chunk.order.begin(), chunk.order.end(), [&](int32_t a, int32_t b) {
    return layer.H(first + a, first + a) > layer.H(first + b, first + b);
  });
  for (int64_t k = 0; k < columns; ++k) {
    const int64_t row = first + chunk.order[at(k)];
    for (int64_t i = 0; i < columns; ++i) {
      chunk.coupling(k, i) = layer.H(row, first + chunk.order[at(i)]) * layer.inverse[at(row)];
    }
  }
  return chunk;
}

Group make_group(const Layer& layer, int64_t index, int64_t first, int64_t columns) {
  Group group = {index, first, columns, {}, {}};
  group.reach = layer.H.block(first, first, columns, columns).rowwise().sum();
  group.reach.array() += layer.damping;
  for (int64_t k = 0; k < columns; k += kBlockColumns) {
    group.chunks.push_back(make_chunk(layer, first + k, std::min(kBlockColumns, columns - k)));
  }
  sort_by_mass(layer.H, group.chunks);
  return group;
}

// sum over k of a(k, r) b(k, r), for every r.
Vector column_dots(ConstMatrixRef a, ConstMatrixRef b) {
  Vector sums = Vector::Zero(a.cols());
  for (int64_t k = 0; k < a.rows(); ++k) sums += a.row(k).cwiseProduct(b.row(k)).transpose();
  return sums;
}

// Rows of a layer refined together; one per thread.
class Tile {
 public:
  Tile(const Layer& layer, LaneParameters& parameters, QuantizedLinear& q)
      : layer_(layer), parameters_(parameters), q_(q) {}

  // Rows [row, row + rows).
  void refine(int64_t row, int64_t rows, int sweeps) {
    row_ = row;
    used_ = std::min(rows, q_.N - row);
    error_.resize(q_.K, rows);
    level_.setZero(q_.K, rows);
    load();
    load_curvatures();
    rounded_error_ = make_fixed_panels(rows, q_.K);
    round_errors(0, q_.K);
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      for (const Panel& panel : layer_.panels) {
        load_gradients(panel);
        move_panel(panel);
        round_errors(panel.first, panel.columns);
      }
    }
    store();
  }

 private:
  // visit(group, column): all columns.
  template <typename Visit>
  void for_each_column(const Visit& visit) {
    for (const Panel& panel : layer_.panels) {
      for (const Group& group : panel.groups) {
        for (int64_t k = group.first; k < group.first + group.columns; ++k) visit(group.index, k);
      }
    }
  }

  void load() {
    turn_rows(layer_.W, row_, layer_.columns, error_);
    const uint8_t* codes = q_.codes.values<uint8_t>().data() + row_ * q_.K;
    for_each_column([&](int64_t group, int64_t k) {
      const auto first = parameters_.first.row(group).segment(row_, used_);
      const auto scale = parameters_.scale.row(group).segment(row_, used_);
      for (int64_t r = 0; r < used_; ++r) {
        level_(k, r) = layer_.levels.level(codes[r * q_.K + layer_.columns[at(k)]], first(r));
        error_(k, r) -= level_(k, r) * scale(r);
      }
      if (layer_.storable_minimums) {
        error_.row(k).head(used_) -= parameters_.minimum.row(group).segment(row_, used_);
      }
    });
  }

  void store() {
    uint8_t* codes = q_.codes.mutable_values<uint8_t>().data() + row_ * q_.K;
    for_each_column([&](int64_t group, int64_t k) {
      const auto first = parameters_.first.row(group).segment(row_, used_);
      for (int64_t r = 0; r < used_; ++r) {
        codes[r * q_.K + layer_.columns[at(k)]] = layer_.levels.code(level_(k, r), first(r));
      }
    });
  }

  void load_curvatures() {
    if (!layer_.moves_parameters) return;
    curvatures_.resize(q_.K, error_.cols());
    for (const Panel& panel : layer_.panels) {
      for (const Group& group : panel.groups) {
        auto curvature = curvatures_.middleRows(group.first, group.columns);
        const auto level = level_.middleRows(group.first, group.columns);
        multiply_tile(layer_.H.block(group.first, group.first, group.columns, group.columns), level,
                      curvature, Accumulate::kNo);
        curvature += layer_.damping * level;
      }
    }
  }

  void load_gradients(const Panel& panel) {
    gradients_.resize(panel.columns, error_.cols());
    multiply_fixed(layer_.rounded_H, panel.first, rounded_error_, gradients_);
    gradients_ += layer_.damping * error_.middleRows(panel.first, panel.columns);
  }

  // rounded_error_ of these columns, and of what shares a scale with them.
  void round_errors(int64_t first, int64_t columns) {
    const int64_t begin = first / kFixedGroup * kFixedGroup;
    const int64_t end =
        std::min(q_.K, (first + columns + kFixedGroup - 1) / kFixedGroup * kFixedGroup);
    set_fixed_columns(error_.middleRows(begin, end - begin), begin, rounded_error_);
  }

  void move_panel(const Panel& panel) {
    before_ = error_.middleRows(panel.first, panel.columns);
    for (auto group = panel.groups.begin(); group != panel.groups.end(); ++group) {
      gradient_ = gradients_.middleRows(group->first - panel.first, group->columns);
      move_group(*group);
      moved_ = error_.middleRows(group->first, group->columns) -
               before_.middleRows(group->first - panel.first, group->columns);
      for (auto other = group + 1; other != panel.groups.end(); ++other) {
        multiply_tile(layer_.H.block(other->first, group->first, other->columns, group->columns),
                      moved_, gradients_.middleRows(other->first - panel.first, other->columns),
                      Accumulate::kYes);
      }
    }
  }

  void move_group(const Group& group) {
    if (layer_.moves_parameters) move_parameters(group);
    for (const Chunk& chunk : group.chunks) move_codes(group, chunk);
    if (layer_.moves_parameters) move_parameters(group);
  }

  // What steps d of a group's scale and m of its minimum take off the loss of every row:
  //   2 d c'r - d^2 c'Hc + 2 m 1'r - 2 d m c'H1 - m^2 1'H1
  struct Slopes {
    Vector slope;       // c'r
    Vector square;      // c'Hc
    Vector lift;        // 1'r; empty without minimums
    Vector cross;       // c'H1; likewise
    float lift_square;  // 1'H1

    float fall(int64_t row, float d, float m) const {
      const float of_scale = 2.f * d * slope(row) - d * d * square(row);
      if (m == 0.f) return of_scale;
      return of_scale + 2.f * m * lift(row) - 2.f * d * m * cross(row) - m * m * lift_square;
    }
    // Least squares together with the minimum, or alone.
    float scale_step(int64_t row, bool together) const {
      const float alone = slope(row) / square(row);
      if (!together) return alone;
      const float determinant = square(row) * lift_square - cross(row) * cross(row);
      if (!(determinant > kSingular * square(row) * lift_square)) return alone;
      return (slope(row) * lift_square - lift(row) * cross(row)) / determinant;
    }
  };

  struct Moved {
    Vector scale;
    Vector minimum;
    Vector fall;  // of the loss
  };

  // Least squares for the scale of the group in every row, and for its minimum if it has one:
  // both, or one of them, whichever lowers the loss most once it is rounded.
  void move_parameters(const Group& group) {
    const auto level = level_.middleRows(group.first, group.columns);
    const auto curvature = curvatures_.middleRows(group.first, group.columns);
    const bool has_minimum = layer_.storable_minimums.has_value();
    Slopes slopes = {.slope = column_dots(level, gradient_),
                     .square = column_dots(level, curvature),
                     .lift = {},
                     .cross = {},
                     .lift_square = group.reach.sum()};
    if (has_minimum) {
      slopes.lift = gradient_.colwise().sum();
      slopes.cross = curvature.colwise().sum();
    }
    const int64_t rows = error_.cols();
    const VectorMap scale(parameters_.scale.row(group.index).data() + row_, rows);
    const Vector none = Vector::Zero(rows);
    const Vector minimum =
        has_minimum ? Vector(parameters_.minimum.row(group.index).segment(row_, rows)) : none;
    Moved moved = {scale, minimum, none};
    try_steps(group.index, slopes, Steps::kScale, moved);
    if (has_minimum) {
      try_steps(group.index, slopes, Steps::kMinimum, moved);
      try_steps(group.index, slopes, Steps::kBoth, moved);
    }
    const Vector step = moved.scale - scale;
    const Vector lift = moved.minimum - minimum;
    parameters_.scale.row(group.index).segment(row_, rows) = moved.scale;
    if (has_minimum) parameters_.minimum.row(group.index).segment(row_, rows) = moved.minimum;
    for (int64_t k = 0; k < group.columns; ++k) {
      error_.row(group.first + k) -= level.row(k).cwiseProduct(step.transpose());
      gradient_.row(k) -= curvature.row(k).cwiseProduct(step.transpose());
      if (!has_minimum) continue;
      error_.row(group.first + k) -= lift.transpose();
      gradient_.row(k) -= group.reach(k) * lift.transpose();
    }
  }

  enum class Steps { kScale, kMinimum, kBoth };

  // Takes the steps, as they will read back, where the loss falls by more than with those of
  // `moved`.
  void try_steps(int64_t group, const Slopes& slopes, Steps steps, Moved& moved) const {
    const int64_t rows = moved.scale.size();
    const std::vector<int64_t> blocks =
        blocks_of_lanes(q_.N, parameters_.scale.rows(), row_, group, rows);
    const auto old_scale = parameters_.scale.row(group).segment(row_, rows);
    const auto first = parameters_.first.row(group).segment(row_, rows);
    Vector scale = old_scale;
    if (steps != Steps::kMinimum) {
      for (int64_t r = 0; r < used_; ++r) {
        if (!(slopes.square(r) > 0.f)) continue;
        const float ratio = 1.f + slopes.scale_step(r, steps == Steps::kBoth) / scale(r);
        scale(r) *= std::clamp(ratio, kSmallestStep, kLargestStep);
      }
      layer_.storable.round({scale.data(), at(rows)}, blocks);
      for (int64_t r = 0; r < rows; ++r) {
        const bool valid = std::isfinite(scale(r)) && scale(r) != 0.f &&
                           may_have(first(r), scale(r), blocks[at(r)]);
        if (!valid) scale(r) = old_scale(r);
      }
    }
    Vector minimum = Vector::Zero(rows);
    if (steps != Steps::kScale) {
      const auto old_minimum = parameters_.minimum.row(group).segment(row_, rows);
      minimum = old_minimum;
      for (int64_t r = 0; r < used_ && slopes.lift_square > 0.f; ++r) {
        const float step = scale(r) - old_scale(r);
        minimum(r) += (slopes.lift(r) - step * slopes.cross(r)) / slopes.lift_square;
      }
      layer_.storable_minimums->round({minimum.data(), at(rows)}, blocks);
      for (int64_t r = 0; r < rows; ++r) {
        if (!std::isfinite(minimum(r))) minimum(r) = old_minimum(r);
      }
    }
    for (int64_t r = 0; r < used_; ++r) {
      const float old_minimum = layer_.storable_minimums ? parameters_.minimum(group, row_ + r) : 0;
      const float new_minimum = steps == Steps::kScale ? old_minimum : minimum(r);
      const float fall = slopes.fall(r, scale(r) - old_scale(r), new_minimum - old_minimum);
      if (!(fall > moved.fall(r))) continue;
      moved.scale(r) = scale(r);
      moved.minimum(r) = new_minimum;
      moved.fall(r) = fall;
    }
  }

  // Whether the block may keep its zero point with another scale.
  bool may_have(float first, float scale, int64_t block) const {
    if (!q_.scheme.zero) return true;
    const ZeroRange range = layer_.storable.zero_range(scale, block);
    const float zero = static_cast<float>(q_.scheme.grid.lowest) - first;
    return zero >= range.smallest && zero <= range.largest;
  }

  void move_codes(const Group& group, const Chunk& chunk) {
    changes_.resize(chunk.columns, error_.cols());
    lanes_.resize(chunk.columns);
    for (int64_t r = 0; r < error_.cols(); r += kLanes) {
      const auto scale = parameters_.scale.row(group.index).segment<kLanes>(row_ + r);
      for (int64_t k = 0; k < chunk.columns; ++k) {
        const int64_t column = chunk.first + chunk.order[at(k)];
        lanes_.set_parameters(k, parameters_, group.index, row_ + r);
        lanes_.from.row(k) = level_.row(column).segment<kLanes>(r).cwiseProduct(scale);
        lanes_.target.row(k) =
            lanes_.from.row(k) +
            gradient_.row(column - group.first).segment<kLanes>(r) * layer_.inverse[at(column)];
      }
      lanes_.round(chunk.coupling.data(), chunk.columns, layer_.levels);
      for (int64_t k = 0; k < chunk.columns; ++k) {
        const int64_t column = chunk.first + chunk.order[at(k)];
        level_.row(column).segment<kLanes>(r) = lanes_.level.row(k);
        error_.row(column).segment<kLanes>(r) += lanes_.change.row(k);
        changes_.row(chunk.order[at(k)]).segment<kLanes>(r) = lanes_.change.row(k);
      }
    }
    step_.resize(group.columns, error_.cols());
    multiply_tile(layer_.H.block(group.first, chunk.first, group.columns, chunk.columns), changes_,
                  step_, Accumulate::kNo);
    step_.middleRows(chunk.first - group.first, chunk.columns) += layer_.damping * changes_;
    gradient_ += step_;
    if (!layer_.moves_parameters) return;
    // An error changes by minus the scale times the level's change.
    const auto scale = parameters_.scale.row(group.index).segment(row_, error_.cols());
    const Vector inverse = scale.cwiseInverse();
    for (int64_t k = 0; k < group.columns; ++k) {
      curvatures_.row(group.first + k) -= step_.row(k).cwiseProduct(inverse.transpose());
    }
  }

  const Layer& layer_;
  LaneParameters& parameters_;
  QuantizedLinear& q_;
  int64_t row_ = 0;
  int64_t used_ = 0;           // rows of W; the others are padding
  Matrix error_;               // [K][rows] w - q
  Matrix level_;               // [K][rows] code + first
  Matrix curvatures_;          // [K][rows] (H + damping) c within each group
  PanelMatrix rounded_error_;  // [rows, K] error_ in fixed point
  Matrix gradients_;           // [columns of the panel][rows] (H + damping) e
  Matrix before_;              // [columns of the panel][rows] error_ before the panel is moved
  Matrix moved_;               // [columns of the group][rows] change of error_
  Matrix step_;      // [columns of the group][rows] change of gradient_ by a chunk's codes
  Matrix gradient_;  // [columns of the group][rows] (H + damping) e
  Matrix changes_;   // [columns of the chunk][rows] of error_
  LaneBlock lanes_;
};

// layer.panels: by group_of_place, whose groups are runs.
void make_panels(Layer& layer, const std::vector<int32_t>& group_of_place) {
  const int64_t K = layer.H.rows();
  for (int64_t k = 0; k < K; ++k) {
    const float diagonal = layer.H(k, k) + layer.damping;
    layer.inverse.push_back(diagonal > 0.f ? 1.f / diagonal : 0.f);
  }
  for (int64_t first = 0; first < K;) {
    int64_t end = first;
    while (end < K && group_of_place[at(end)] == group_of_place[at(first)]) ++end;
    if (layer.panels.empty() || layer.panels.back().columns + end - first > kPanelColumns) {
      layer.panels.push_back({first, 0, {}});
    }
    Panel& panel = layer.panels.back();
    panel.columns += end - first;
    panel.groups.push_back(make_group(layer, group_of_place[at(first)], first, end - first));
    first = end;
  }
  for (Panel& panel : layer.panels) sort_by_mass(layer.H, panel.groups);
  sort_by_mass(layer.H, layer.panels);
}

Layer make_layer(ConstMatrixRef W, ConstMatrixRef H, float damping,
                 const std::vector<int32_t>& columns, const QuantizedLinear& q) {
  return {W,
          H,
          FixedRows(H),
          damping,
          columns,
          {},
          {},
          StorableScales(q),
          StorableScales::of_minimums(q),
          LaneLevels(q.scheme.grid),
          q.scheme.blocking.rows == 1};
}

// As they read back, [N, G].
void store_parameters(const Layer& layer, const LaneParameters& parameters, QuantizedLinear& q) {
  const Matrix scales = parameters.scale.leftCols(q.N).transpose();
  layer.storable.store({scales.data(), at(scales.size())}, q.scale);
  if (!layer.storable_minimums) return;
  const Matrix minimums = parameters.minimum.leftCols(q.N).transpose();
  layer.storable_minimums->store({minimums.data(), at(minimums.size())}, q.minimum);
}

void refine_layer(const Layer& layer, int sweeps, QuantizedLinear& q) {
  LaneParameters parameters = load_parameters(q);
  const int64_t rows = tile_rows(q.N);
#pragma omp parallel
  {
    Tile tile(layer, parameters, q);
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < q.N; row += rows) {
      tile.refine(row, std::min(rows, padded_rows(q.N) - row), sweeps);
    }
  }
  if (layer.moves_parameters) store_parameters(layer, parameters, q);
}

}  // namespace

void refine(ConstMatrixRef W, ConstMatrixRef H, double damping, int sweeps, QuantizedLinear& q) {
  assert(W.rows() == q.N && W.cols() == q.K && H.rows() == q.K && H.cols() == q.K);
  std::vector<int32_t> columns(at(q.K));
  std::iota(columns.begin(), columns.end(), 0);
  std::vector<int32_t> group = group_of_columns(q);
  const bool scattered = !std::is_sorted(group.begin(), group.end());
  const auto amount = static_cast<float>(damping);
  if (!scattered) {
    Layer layer = make_layer(W, H, amount, columns, q);
    make_panels(layer, group);
    refine_layer(layer, sweeps, q);
    return;
  }
  std::stable_sort(columns.begin(), columns.end(),
                   [&](int32_t a, int32_t b) { return group[at(a)] < group[at(b)]; });
  std::sort(group.begin(), group.end());
  Matrix sorted(q.K, q.K);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < q.K; ++i) {
    for (int64_t j = 0; j < q.K; ++j) sorted(i, j) = H(columns[at(i)], columns[at(j)]);
  }
  Layer layer = make_layer(W, sorted, amount, columns, q);
  make_panels(layer, group);
  refine_layer(layer, sweeps, q);
}

}  // namespace nibble
