// Methods: the names of `-m`, each a combination of transforms, a solver and a scheme, where the
// user names none of them.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace nibble {

struct Method {
  std::string_view name;
  std::string_view summary;
  std::string_view source;                       // paper
  std::span<const std::string_view> transforms;  // rows of transforms(), in order
  std::string_view solver;                       // row of solvers()
  std::string_view scheme;                       // row of named_schemes(); empty: integers
  bool needs_calibration;
};

// In the order shown to users.
std::span<const Method> methods();
// Throws Error with the nearest name.
const Method& method(const std::string& name);

}  // namespace nibble
