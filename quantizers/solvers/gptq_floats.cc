// As quantizers/solvers/gptq.cc has it: with F the unit lower triangular factor and e = w - q,
//   q_j = round(w_j + sum over i < j of e_i F_ji)
// over the columns in the order of the factorisation, earlier blocks of columns by one product.
#include "quantizers/solvers/gptq_floats.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/blas_tile.h"
#include "kernels/factorize.h"
#include "kernels/matmul.h"
#include "quantizers/solvers/gptq_lanes.h"
#include "quantizers/solvers/row_tile.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Rows of a layer being solved together; one per thread.
class Tile {
 public:
  // scales: of every block of q.
  Tile(ConstMatrixRef W, const Factorization& f, const std::vector<float>& scales,
       const QuantizedLinear& q)
      : W_(W), f_(f), scales_(scales), q_(q), is_e4m3_(q.scheme.grid.bits == 8) {}

  // Rows [row, row + rows) into codes U8 [N, K].
  void solve(int64_t row, int64_t rows, uint8_t* codes) {
    change_.resize(W_.cols(), rows);
    scale_.resize(static_cast<size_t>(rows));
    level_.resize(static_cast<size_t>(rows));
    code_.resize(static_cast<size_t>(rows));
    for (int64_t block = 0; block < W_.cols(); block += kBlockColumns) {
      const int64_t columns = std::min(kBlockColumns, W_.cols() - block);
      from_.resize(columns, rows);
      turn_rows(W_, row, std::span(f_.order).subspan(at(block), at(columns)), from_);
      target_ = from_;
      if (block > 0) {
        multiply_tile(f_.F.block(block, 0, columns, block), change_.topRows(block), target_,
                      Accumulate::kYes);
      }
      for (int64_t k = 0; k < columns; ++k) {
        for (int64_t i = 0; i < k; ++i) {
          target_.row(k) += f_.F(block + k, block + i) * change_.row(block + i);
        }
        round_column(row, block + k, k, codes);
      }
    }
  }

 private:
  static size_t at(int64_t index) { return static_cast<size_t>(index); }

  // Place j of the order, row k of the block's weights.
  void round_column(int64_t row, int64_t j, int64_t k, uint8_t* codes) {
    const int64_t column = f_.order[at(j)];
    const auto rows = static_cast<int64_t>(scale_.size());
    for (int64_t r = 0; r < rows; ++r) {
      scale_[at(r)] = scales_[at(block_index(q_, std::min(row + r, q_.N - 1), column))];
      level_[at(r)] = target_(k, r) / scale_[at(r)];
    }
    if (is_e4m3_) {
      from_float(level_, Dtype::kF8E4M3, std::as_writable_bytes(std::span(code_)));
    } else {
      std::ranges::transform(level_, code_.begin(), e2m1_code);
    }
    for (int64_t r = 0; r < rows; ++r) {
      change_(j, r) = from_(k, r) - q_.scheme.grid.table[code_[at(r)]] * scale_[at(r)];
      if (row + r < q_.N) codes[(row + r) * q_.K + column] = code_[at(r)];
    }
  }

  ConstMatrixRef W_;
  const Factorization& f_;
  const std::vector<float>& scales_;
  const QuantizedLinear& q_;
  bool is_e4m3_;
  Matrix change_;              // [K][rows] w - q, by place
  Matrix from_;                // [columns of the block][rows]
  Matrix target_;              // likewise
  std::vector<float> scale_;   // [rows]
  std::vector<float> level_;   // [rows]
  std::vector<uint8_t> code_;  // [rows]
};

}  // namespace

SolverResult solve_gptq_floats(const LinearProblem& problem, const Factorization& factorization) {
  RoundedLinear rounded =
      quantize_to_floats(problem.W, problem.scheme, problem.shared_largest, problem.where);
  QuantizedLinear& q = rounded.q;
  const std::vector<float> scales = float_parameters(q).scale;
  uint8_t* codes = q.codes.mutable_values<uint8_t>().data();
  const int64_t rows = tile_rows(q.N);
#pragma omp parallel
  {
    Tile tile(problem.W, factorization, scales, q);
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < q.N; row += rows) {
      tile.solve(row, std::min(rows, padded_rows(q.N) - row), codes);
    }
  }
  return {std::move(rounded.q), rounded.rounding};
}

}  // namespace nibble
