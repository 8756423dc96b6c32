// Solvers: rows of one table, in the order shown to users. A solver chooses the codes of one linear
// layer; what it may know of the layer's inputs is an argument.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/kmeans.h"
#include "quantizers/solvers/solver.h"
#include "src/tensor/matrix.h"

namespace nibble {

enum class Needs {
  kNothing,
  kImportance,  // weighs columns by diag(H) where there is a Hessian
  kHessian,
};

// Of the inputs that the layer sees; null where there was no calibration.
struct LayerInputs {
  const Matrix* H = nullptr;  // [K, K] X'X / T, both triangles
  const Factorization* factorization = nullptr;
};

// The options of all solvers.
struct SolverOptions {
  GptqOptions gptq;
  KmeansOptions kmeans;
};

struct SolvedLayer {
  SolverResult result;
  std::optional<double> damping;  // share of the mean of diag(H)
  int escalations = 0;
  int64_t dead_columns = 0;
};

struct Solver {
  std::string_view name;
  std::string_view summary;
  std::string_view source;  // paper or program
  Needs needs;
  // Throws Error(problem.where, ...) for weights or schemes it cannot take.
  SolvedLayer (*solve)(const LinearProblem& problem, const LayerInputs& inputs,
                       const SolverOptions& options);
};

std::span<const Solver> solvers();
// Throws Error with the nearest name.
const Solver& solver(const std::string& name);

}  // namespace nibble
