// For each codebook: levels c = argmin sum_nk h_k min_j (W_nk - c_j)^2, rounded to their stored
// type, then codes = nearest level. h = diag(H) as in SqueezeLLM (Kim et al. 2023, arXiv
// 2306.07629, equation 4, there the Fisher information). Differs: the levels are the global
// minimum, which on a line costs little (quantizers/solvers/line_clusters.h), not what one run of
// Lloyd finds.
#include "quantizers/solvers/kmeans.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quantizers/solvers/line_clusters.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/codebooks.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

void check_scheme(const LinearProblem& problem, const KmeansOptions& options) {
  const Scheme& scheme = problem.scheme;
  if (scheme.grid.kind != Grid::Kind::kCodebook || scheme.scale || scheme.zero || scheme.minimum) {
    throw Error(problem.where, "k-means makes codebooks without scales, not " + describe(scheme));
  }
  if (!problem.group_of_column.empty()) {
    throw Error(problem.where, "codebooks have no column groups");
  }
  if (scheme.grid.bits < 1 || scheme.grid.bits > 8) {
    throw Error(problem.where, "codebooks of " + std::to_string(scheme.grid.bits) + " bits",
                "expected 1 to 8");
  }
  const Dtype type = options.codebook_type;
  if (type != Dtype::kF16 && type != Dtype::kBF16 && type != Dtype::kF32) {
    throw Error(problem.where, "codebooks of type " + std::string(dtype_name(type)),
                "expected F16, BF16 or F32");
  }
  if (options.starts < 1) {
    throw Error(problem.where, std::to_string(options.starts) + " runs of k-means",
                "expected at least one");
  }
}

void check_numbers(const LinearProblem& problem, std::span<const float> importance) {
  const ConstMatrixRef& W = problem.W;
  if (W.size() == 0) throw Error(problem.where, "no weights");
  for (int64_t n = 0; n < W.rows(); ++n) {
    if (W.row(n).allFinite()) continue;
    int64_t k = 0;
    while (std::isfinite(W(n, k))) ++k;
    throw Error(problem.where,
                std::string(std::isnan(W(n, k)) ? "NaN" : "infinity") + " at row " +
                    std::to_string(n) + ", column " + std::to_string(k),
                "is the checkpoint damaged?");
  }
  if (importance.empty()) return;
  if (std::ssize(importance) != W.cols()) {
    throw Error(problem.where, "importance of " + std::to_string(importance.size()) +
                                   " columns, expected " + std::to_string(W.cols()));
  }
  for (size_t k = 0; k < importance.size(); ++k) {
    if (std::isfinite(importance[k]) && importance[k] >= 0.f) continue;
    throw Error(problem.where, "importance " + std::to_string(importance[k]) + " of column " +
                                   std::to_string(k) + ", expected a number from 0");
  }
}

// The weights that one codebook serves, and their importance.
struct Served {
  std::vector<float> values;
  std::vector<float> importance;  // empty: all alike

  void add_row(ConstMatrixRef W, std::span<const float> h, int64_t n, int64_t first, int64_t end) {
    const float* const row = W.data() + n * W.outerStride();
    values.insert(values.end(), row + first, row + end);
    if (!h.empty()) importance.insert(importance.end(), h.begin() + first, h.begin() + end);
  }

  void gather(ConstMatrixRef W, std::span<const float> h, const Blocking& blocking, int64_t book) {
    values.clear();
    importance.clear();
    const int64_t N = W.rows();
    const int64_t K = W.cols();
    if (blocking.flattened) {
      const int64_t end = std::min(N * K, (book + 1) * blocking.columns);
      for (int64_t i = book * blocking.columns; i < end;) {
        const int64_t taken = std::min(end - i, K - i % K);
        add_row(W, h, i / K, i % K, i % K + taken);
        i += taken;
      }
      return;
    }
    const int64_t groups = group_count(blocking, K);
    const int64_t rows = blocking.rows == kAll ? N : blocking.rows;
    const int64_t width = blocking.columns == kAll ? K : blocking.columns;
    const int64_t first_row = book / groups * rows;
    const int64_t first = book % groups * width;
    for (int64_t n = first_row; n < std::min(N, first_row + rows); ++n) {
      add_row(W, h, n, first, std::min(K, first + width));
    }
  }
};

// [books, 2^bits], ascending in each book.
std::vector<float> find_levels(const LinearProblem& problem, const KmeansOptions& options,
                               std::span<const float> importance, int64_t books) {
  const int64_t clusters = int64_t{1} << problem.scheme.grid.bits;
  std::vector<float> levels(static_cast<size_t>(books * clusters));
#pragma omp parallel if (books > 1)
  {
    Served served;
    LineClusters line;
#pragma omp for schedule(dynamic)
    for (int64_t book = 0; book < books; ++book) {
      served.gather(problem.W, importance, problem.scheme.codebook_blocking, book);
      line.load(served.values, served.importance);
      // An odd factor, so that every codebook draws from its own seed.
      const uint64_t seed = options.seed ^ (static_cast<uint64_t>(book) * 0xd1342543de82ef95U);
      const std::vector<double> centers = options.optimum
                                              ? line.optimum(clusters)
                                              : line.best_of_seeds(clusters, options.starts, seed);
      for (int64_t c = 0; c < clusters; ++c) {
        const auto from = static_cast<size_t>(std::min(c, std::ssize(centers) - 1));
        levels[static_cast<size_t>(book * clusters + c)] = static_cast<float>(centers[from]);
      }
    }
  }
  return levels;
}

}  // namespace

SolverResult solve_kmeans(const LinearProblem& problem, const KmeansOptions& options,
                          std::span<const float> importance) {
  check_scheme(problem, options);
  check_numbers(problem, importance);
  SolverResult result;
  QuantizedLinear& q = result.q;
  q.scheme = problem.scheme;
  q.N = problem.W.rows();
  q.K = problem.W.cols();
  const int64_t books = block_count(q.scheme.codebook_blocking, q.N, q.K);
  const int64_t clusters = int64_t{1} << q.scheme.grid.bits;
  const std::vector<float> levels = find_levels(problem, options, importance, books);
  q.codebooks = Tensor::allocate(options.codebook_type, {books, clusters});
  const RoundingLoss rounding =
      from_float(levels, options.codebook_type, q.codebooks.mutable_bytes());
  if (rounding.overflowed > 0) {
    const int64_t book = rounding.first_overflow / clusters;
    throw Error(problem.where,
                "a level of codebook " + std::to_string(book) + " is infinite in " +
                    std::string(dtype_name(options.codebook_type)),
                "store codebooks as BF16 or F32");
  }
  round_to_codebooks(problem.W, q);
  return result;
}

}  // namespace nibble
