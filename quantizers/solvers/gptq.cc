// With H + damping = R R', R upper triangular (columns in the order of the factorisation), and
// e = w - q, the loss is |e R|^2, whose part j depends on the columns up to j alone:
//   q_j = round(w_j + sum over i < j of e_i R_ij / R_jj)
// which is Babai's nearest plane, and the same codes as algorithm 1 of the paper: there the columns
// to come are moved after every column, w_j <- w_j - (w_i - q_i) U_ij / U_ii with H^-1 = U'U.
// Differs: no inverse and one factorisation instead of three; sums over all earlier columns are
// formed block by block when a block is due (F = R' / diag, kernels/factorize.h); dead columns are
// rounded to nearest instead of becoming zero; damping is of the mean over live columns.
// Groups that are not static are fitted at their start to the weights as moved so far, w + u F^-T
// over the columns of the group, u_j = sum over earlier blocks of e_i F_ji: as the paper's program,
// which does not move weights inside a block of 128.
#include "quantizers/solvers/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/blas.h"
#include "kernels/blas_tile.h"
#include "kernels/factorize.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/gptq_lanes.h"
#include "quantizers/solvers/refine.h"
#include "quantizers/solvers/row_tile.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"

namespace nibble {
namespace {

// Columns whose sums over all earlier ones are formed at once: BLAS arranges the changes anew in
// every product. 2048 x 5632: 128 takes a fifth longer.
constexpr int64_t kPanelColumns = 4 * kBlockColumns;

size_t at(int64_t index) { return static_cast<size_t>(index); }

// What the tiles of a layer share.
struct Layer {
  ConstMatrixRef W;
  const Factorization& factorization;
  const Scheme& scheme;
  ScaleSearch search;
  bool fits_on_the_way;                            // groups are not static
  std::vector<int32_t> group_of_place;             // [K] in the order of the factorisation
  std::vector<std::vector<int32_t>> group_places;  // [G] places (or, static, columns) of a group
  std::vector<float> importance;                   // [K] H_kk by place (static: by column)
  LaneLevels levels;
  StorableScales storable;
  LaneParameters parameters;
  std::vector<GroupFitter::Row> fitted;  // [G, padded N]
};

void check_problem(const LinearProblem& problem, ConstMatrixRef H,
                   const Factorization& factorization, const GptqOptions& options) {
  const Scheme& scheme = problem.scheme;
  if (scheme.grid.kind != Grid::Kind::kInteger || scheme.grid.bits < 2 || scheme.grid.bits > 8) {
    throw Error(problem.where, "gptq to " + describe(scheme), "expected integers of 2 to 8 bits");
  }
  if (scheme.minimum) {
    throw Error(problem.where, "gptq to " + describe(scheme) + ": it does not fit minimums",
                "choose a scheme with zero points or none");
  }
  if (scheme.blocking.rows != 1 || scheme.blocking.flattened) {
    throw Error(problem.where, "gptq to " + describe(scheme), "expected groups or whole rows");
  }
  if (H.rows() != problem.W.cols() || H.cols() != problem.W.cols() ||
      factorization.F.rows() != problem.W.cols()) {
    throw Error(problem.where, "a Hessian of " + std::to_string(H.rows()) + " columns for " +
                                   std::to_string(problem.W.cols()) + " inputs");
  }
  const bool own_rule = problem.rule == nullptr || problem.rule == &range_rules().front();
  if (!own_rule && (options.search != ScaleSearch::kMinMax || !options.static_groups)) {
    throw Error(problem.where,
                "range rule '" + std::string(problem.rule->name) + "' with a scale search",
                "choose the search minmax and static groups, or the rule nibble");
  }
}

// Weights [columns][rows_stride] of one group: pointers to their rows from `row` on.
std::vector<const float*> column_pointers(const Matrix& turned, int64_t first, int64_t columns,
                                          int64_t row) {
  std::vector<const float*> pointers(at(columns));
  for (int64_t k = 0; k < columns; ++k) pointers[at(k)] = turned.row(first + k).data() + row;
  return pointers;
}

// Group g of rows [row, row + kLanes). importance: [columns].
void fit_lanes(Layer& layer, int64_t g, int64_t row, std::span<const float* const> weights,
               std::span<const float> importance, GroupFitter& fitter) {
  const int64_t place = g * layer.parameters.scale.cols() + row;
  fitter.fit(weights, importance,
             blocks_of_lanes(layer.W.rows(), layer.parameters.scale.rows(), row, g),
             layer.parameters.scale.data() + place, layer.parameters.first.data() + place,
             std::span(layer.fitted).subspan(at(place), at(kLanes)));
}

// Static groups by a search over the original weights.
void fit_static_groups(Layer& layer) {
  const int64_t N = layer.W.rows();
#pragma omp parallel
  {
    GroupFitter fitter(layer.scheme, layer.search, layer.storable);
    Matrix turned;
    std::vector<float> importance;
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < N; row += kLanes) {
      for (size_t g = 0; g < layer.group_places.size(); ++g) {
        const std::vector<int32_t>& columns = layer.group_places[g];
        turned.resize(static_cast<int64_t>(columns.size()), kLanes);
        turn_rows(layer.W, row, columns, turned);
        importance.resize(columns.size());
        for (size_t k = 0; k < columns.size(); ++k) {
          importance[k] = layer.importance[at(columns[k])];
        }
        fit_lanes(layer, static_cast<int64_t>(g), row, column_pointers(turned, 0, turned.rows(), 0),
                  importance, fitter);
      }
    }
  }
}

// Rows of a layer being solved together; one per thread.
class Tile {
 public:
  explicit Tile(Layer& layer)
      : layer_(layer), fitter_(layer.scheme, layer.search, layer.storable) {}

  // Rows [row, row + rows) into codes U8 [N, K].
  void solve(int64_t row, int64_t rows, uint8_t* codes) {
    row_ = row;
    change_.resize(layer_.W.cols(), rows);
    for (int64_t block = 0; block < layer_.W.cols(); block += kBlockColumns) {
      const int64_t columns = std::min(kBlockColumns, layer_.W.cols() - block);
      if (layer_.fits_on_the_way) {
        const int64_t ahead = columns_to_fit(block, columns);
        load_panel(block, ahead);
        fit_groups(block, columns, ahead);
      } else if (block % kPanelColumns == 0) {
        load_panel(block, std::min(kPanelColumns, layer_.W.cols() - block));
      } else {
        move_targets(panel_, block, columns);
      }
      round(block, columns, codes);
    }
  }

 private:
  // Columns from `block` on up to the end of the last group that starts in it, at least `columns`.
  int64_t columns_to_fit(int64_t block, int64_t columns) const {
    int64_t end = block + columns;
    for (int64_t j = block; j < block + columns; ++j) {
      const auto& places = layer_.group_places[at(layer_.group_of_place[at(j)])];
      if (places.front() >= block) end = std::max<int64_t>(end, places.back() + 1);
    }
    return end - block;
  }

  // from_ = weights, target_ = weights moved by the changes of earlier columns.
  void load_panel(int64_t panel, int64_t columns) {
    panel_ = panel;
    from_.resize(columns, change_.cols());
    turn_rows(layer_.W, row_, std::span(layer_.factorization.order).subspan(at(panel), at(columns)),
              from_);
    subtract_minimums(layer_.parameters, row_,
                      std::span(layer_.group_of_place).subspan(at(panel), at(columns)), from_);
    target_ = from_;
    move_targets(0, panel, columns);
  }

  // Moves the targets of columns [block, block + columns) by the changes of [first, block).
  void move_targets(int64_t first, int64_t block, int64_t columns) {
    if (first == block) return;
    multiply_tile(layer_.factorization.F.block(block, first, columns, block - first),
                  change_.middleRows(first, block - first),
                  target_.middleRows(block - panel_, columns), Accumulate::kYes);
  }

  // Fits the groups that start in the block to the weights as moved by earlier blocks.
  void fit_groups(int64_t block, int64_t columns, int64_t ahead) {
    const auto& F = layer_.factorization.F;
    Matrix moved = target_ - from_;
    const blasint depth = blas(ahead);
    if (block > 0) {
      cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasUnit, depth,
                  blas(moved.cols()), 1.f, F.data() + block * F.cols() + block, blas(F.cols()),
                  moved.data(), blas(moved.cols()));
    }
    moved += from_;
    for (int64_t j = block; j < block + columns; ++j) {
      const int64_t g = layer_.group_of_place[at(j)];
      const auto& places = layer_.group_places[at(g)];
      if (places.front() != j) continue;
      const auto count = static_cast<int64_t>(places.size());
      for (int64_t r = 0; r < moved.cols() && row_ + r < layer_.W.rows(); r += kLanes) {
        fit_lanes(layer_, g, row_ + r, column_pointers(moved, j - block, count, r),
                  std::span(layer_.importance).subspan(at(j), at(count)), fitter_);
      }
    }
  }

  // Codes and changes of the columns [block, block + columns).
  void round(int64_t block, int64_t columns, uint8_t* codes) {
    const auto& F = layer_.factorization.F;
    const int64_t K = layer_.W.cols();
    const auto order = std::span(layer_.factorization.order).subspan(at(block), at(columns));
    lanes_.resize(columns);
    for (int64_t r = 0; r < change_.cols() && row_ + r < layer_.W.rows(); r += kLanes) {
      for (int64_t k = 0; k < columns; ++k) {
        lanes_.set_parameters(k, layer_.parameters, layer_.group_of_place[at(block + k)], row_ + r);
      }
      lanes_.target = target_.block(block - panel_, r, columns, kLanes);
      lanes_.from = from_.block(block - panel_, r, columns, kLanes);
      lanes_.round(F.data() + block * F.cols() + block, F.cols(), layer_.levels);
      change_.block(block, r, columns, kLanes) = lanes_.change;
      lanes_.store_codes(order, std::min(kLanes, layer_.W.rows() - row_ - r), layer_.levels, K,
                         codes + (row_ + r) * K);
    }
  }

  Layer& layer_;
  GroupFitter fitter_;
  int64_t row_ = 0;
  int64_t panel_ = 0;  // first column of from_ and target_
  Matrix change_;      // [K][rows] w - q, by place
  Matrix from_;        // [columns of the panel][rows] weights less minimums
  Matrix target_;      // [columns of the panel][rows]
  LaneBlock lanes_;
};

void solve_tiles(Layer& layer, uint8_t* codes) {
  const int64_t N = layer.W.rows();
  const int64_t rows = tile_rows(N);
#pragma omp parallel
  {
    Tile tile(layer);
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < N; row += rows) {
      tile.solve(row, std::min(rows, padded_rows(N) - row), codes);
    }
  }
}

// Groups of the columns in the order of solving (act-order without static groups).
std::vector<int32_t> groups_along(const std::vector<int32_t>& order, const Blocking& blocking) {
  const auto K = static_cast<int64_t>(order.size());
  if (blocking.columns == kAll || blocking.columns >= K) return {};
  std::vector<int32_t> group(order.size());
  for (size_t j = 0; j < order.size(); ++j) {
    group[at(order[j])] = static_cast<int32_t>(static_cast<int64_t>(j) / blocking.columns);
  }
  return group;
}

Layer make_layer(const LinearProblem& problem, ConstMatrixRef H, const Factorization& f,
                 const GptqOptions& options, const QuantizedLinear& q, bool fits_on_the_way) {
  const int64_t G = group_count(q.scheme.blocking, q.K);
  Layer layer = {.W = problem.W,
                 .factorization = f,
                 .scheme = problem.scheme,
                 .search = options.search,
                 .fits_on_the_way = fits_on_the_way,
                 .group_of_place = std::vector<int32_t>(at(q.K)),
                 .group_places = std::vector<std::vector<int32_t>>(at(G)),
                 .importance = std::vector<float>(at(q.K)),
                 .levels = LaneLevels(problem.scheme.grid),
                 .storable = StorableScales(q),
                 .parameters = {},
                 .fitted = {}};
  const std::vector<int32_t> group = group_of_columns(q);
  for (int64_t j = 0; j < q.K; ++j) {
    const int64_t column = f.order[at(j)];
    layer.group_of_place[at(j)] = group[at(column)];
    const int64_t listed = fits_on_the_way ? j : column;
    layer.importance[at(listed)] = H(column, column);
    if (fits_on_the_way)
      layer.group_places[at(group[at(column)])].push_back(static_cast<int32_t>(j));
  }
  for (int64_t k = 0; k < q.K && !fits_on_the_way; ++k) {
    layer.group_places[at(group[at(k)])].push_back(static_cast<int32_t>(k));
  }
  layer.parameters.scale.setOnes(G, padded_rows(q.N));
  layer.parameters.first.setZero(G, padded_rows(q.N));
  layer.fitted.resize(at(G * padded_rows(q.N)));
  return layer;
}

// Stores fitted parameters in q; returns how many scales were raised.
int64_t store_parameters(const Layer& layer, const std::string& where, QuantizedLinear& q) {
  const LaneParameters& parameters = layer.parameters;
  const int64_t G = parameters.scale.rows();
  std::vector<float> scales(at(q.N * G));
  int64_t raised = 0;
  for (int64_t n = 0; n < q.N; ++n) {
    for (int64_t g = 0; g < G; ++g) {
      const GroupFitter::Row& row = layer.fitted[at(g * parameters.scale.cols() + n)];
      if (row.failed) {
        throw Error(where,
                    "the scale of row " + std::to_string(n) + ", group " + std::to_string(g) +
                        " is infinite in " + std::string(dtype_name(q.scheme.scale->type)),
                    "store scales as BF16 or F32");
      }
      raised += row.raised ? 1 : 0;
      scales[at(n * G + g)] = parameters.scale(g, n);
      if (q.scheme.zero) {
        q.zero.values.mutable_values<uint8_t>()[at(n * G + g)] =
            static_cast<uint8_t>(static_cast<float>(q.scheme.grid.lowest) - parameters.first(g, n));
      }
    }
  }
  layer.storable.store(scales, q.scale);
  return raised;
}

}  // namespace

Factorization factorize_for_gptq(ConstMatrixRef H, const GptqOptions& options,
                                 const std::string& where) {
  return factorize(H, options.act_order ? activation_order(H) : natural_order(H.rows()),
                   options.damp, where);
}

void solve_codes(const LinearProblem& problem, ConstMatrixRef H, const Factorization& factorization,
                 QuantizedLinear& q) {
  Layer layer = make_layer(problem, H, factorization, {.search = ScaleSearch::kMinMax}, q, false);
  layer.parameters = load_parameters(q);
  solve_tiles(layer, q.codes.mutable_values<uint8_t>().data());
}

GptqResult solve_gptq_on_grid(const LinearProblem& problem, SolverResult rounded, ConstMatrixRef H,
                              const Factorization& factorization, const GptqOptions& options) {
  if (options.search != ScaleSearch::kHessian || !options.static_groups) {
    throw Error(problem.where,
                "the scales of " + describe(problem.scheme) + " are fitted beforehand",
                "leave out --scale-search and --no-static-groups");
  }
  GptqResult result;
  result.solved = std::move(rounded);
  Stopwatch watch;
  solve_codes(problem, H, factorization, result.solved.q);
  result.solve_seconds = watch.seconds();
  watch = {};
  if (options.sweeps > 0) {
    refine(problem.W, H, factorization.added, options.sweeps, result.solved.q);
  }
  result.refine_seconds = watch.seconds();
  result.damping = factorization.damping;
  result.escalations = factorization.escalations;
  result.dead_columns = static_cast<int64_t>(factorization.dead.size());
  return result;
}

GptqResult solve_gptq(const LinearProblem& problem, ConstMatrixRef H,
                      const Factorization& factorization, const GptqOptions& options) {
  check_problem(problem, H, factorization, options);
  Stopwatch watch;
  const bool fits_on_the_way = !options.static_groups && problem.group_of_column.empty();
  const std::vector<int32_t> groups =
      fits_on_the_way && options.act_order
          ? groups_along(factorization.order, problem.scheme.blocking)
          : problem.group_of_column;
  const RangeRule& rule = problem.rule != nullptr ? *problem.rule : range_rules().front();
  GptqResult result;
  QuantizedLinear& q = result.solved.q;
  q = fit_parameters(problem.W, problem.scheme, rule, groups, problem.where,
                     &result.solved.rounding);
  Layer layer = make_layer(problem, H, factorization, options, q, fits_on_the_way);
  const bool searches = options.search != ScaleSearch::kMinMax;
  if (fits_on_the_way || !searches) {
    layer.parameters = load_parameters(q);
  } else {
    fit_static_groups(layer);
  }
  result.search_seconds = watch.seconds();

  watch = {};
  solve_tiles(layer, q.codes.mutable_values<uint8_t>().data());
  if (fits_on_the_way || searches) {
    result.solved.rounding.raised_to_smallest = store_parameters(layer, problem.where, q);
  }
  result.solve_seconds = watch.seconds();

  watch = {};
  if (options.sweeps > 0) refine(problem.W, H, factorization.added, options.sweeps, q);
  result.refine_seconds = watch.seconds();
  result.damping = factorization.damping;
  result.escalations = factorization.escalations;
  result.dead_columns = static_cast<int64_t>(factorization.dead.size());
  return result;
}

}  // namespace nibble
