// GPTQ: the codes of a linear layer, column after column, each rounding error made good by the
// columns still to come.
//
// E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, GPTQ, 2022, arXiv 2210.17323, algorithm 1.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/factorize.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/matrix.h"

namespace nibble {

struct GptqOptions {
  bool act_order = true;      // columns by falling diag(H)
  bool static_groups = true;  // groups of neighbouring columns, fitted to the original weights
  double damp = 0.01;         // of the mean of diag(H)
  ScaleSearch search = ScaleSearch::kHessian;
  int sweeps = 2;  // rounds of quantizers/solvers/refine.h
};

struct GptqResult {
  SolverResult solved;
  double damping = 0.;  // as the factorisation needed it
  int escalations = 0;
  int64_t dead_columns = 0;
  double search_seconds = 0.;
  double solve_seconds = 0.;
  double refine_seconds = 0.;
};

// The factorisation that solve_gptq needs: one for all linears with the same input.
Factorization factorize_for_gptq(ConstMatrixRef H, const GptqOptions& options,
                                 const std::string& where);

// problem: integer codes of 2 to 8 bits, groups or whole rows. With problem.group_of_column the
// groups are static ones. H [K, K] = X'X / T, both triangles; factorization: of H. Dead columns
// (H_kk = 0) are rounded to nearest. Act-order without static groups gives q.group_of_column.
GptqResult solve_gptq(const LinearProblem& problem, ConstMatrixRef H,
                      const Factorization& factorization, const GptqOptions& options);

// The codes alone, on the grid that the parameters of q fix: integers or a table's levels, minimums
// too, in static groups of neighbouring columns, which rows may share. problem.scheme: that of q.
void solve_codes(const LinearProblem& problem, ConstMatrixRef H, const Factorization& factorization,
                 QuantizedLinear& q);

// solve_codes and refinement of `rounded`, whose parameters were fitted beforehand. Throws
// Error(problem.where, ...) for options of a search of scales.
GptqResult solve_gptq_on_grid(const LinearProblem& problem, SolverResult rounded, ConstMatrixRef H,
                              const Factorization& factorization, const GptqOptions& options);

}  // namespace nibble
