#include "src/pipeline/method.h"

#include <array>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::array<Method, 1> kMethods = {{
    {"rtn", "round to nearest, min-max ranges", "-", "rtn", false},
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
