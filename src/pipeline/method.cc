#include "src/pipeline/method.h"

#include <array>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::array<Method, 2> kMethods = {{
    {"rtn", "round to nearest, min-max ranges", "-", {}, "rtn", "", false},
    {"gptq",
     "codes column by column against the Hessian, refined, corrected for the quantized past",
     "Frantar et al. 2022, arXiv 2210.17323",
     {},
     "gptq",
     "",
     true},
}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

const Method& method(const std::string& name) {
  std::vector<std::string> known;
  for (const Method& row : kMethods) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("--method", "unknown method '" + name + "'",
              nearest.empty() ? "see 'nibble list methods'" : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
