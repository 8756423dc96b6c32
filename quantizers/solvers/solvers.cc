#include <array>
#include <span>
#include <string>
#include <vector>

#include "quantizers/solvers/rtn.h"
#include "quantizers/solvers/solver.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::array<Solver, 1> kSolvers = {{
    {.name = "rtn",
     .summary = "round to nearest, no calibration",
     .source = "the common baseline; rules as in src/quantized/range_rule.h",
     .solve = solve_rtn},
}};

}  // namespace

std::span<const Solver> solvers() { return kSolvers; }

const Solver& solver(const std::string& name) {
  std::vector<std::string> known;
  std::string list;
  for (const Solver& row : kSolvers) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("", "no solver '" + name + "'",
              nearest.empty() ? "known: " + list : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
