// Methods: the names of `-m`, each a combination of transforms and a solver, with the schemes and
// the format it implies where the user names none.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace nibble {

struct Method {
  std::string_view name;
  std::string_view summary;
  std::string_view source;  // paper
  std::string_view solver;  // row of solvers()
  bool needs_calibration;
};

// In the order shown to users.
std::span<const Method> methods();
// Throws Error with the nearest name.
const Method& method(const std::string& name);

}  // namespace nibble
