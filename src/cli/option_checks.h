// What is wrong with options as typed.
#pragma once

#include <CLI/CLI.hpp>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// A number from low to high. CLI11's own checks let NaN pass.
CLI::Validator number_in(double low, double high = std::numeric_limits<double>::max());

// Whether there is anything for an option to work on.
struct OptionUse {
  std::string_view option;  // "--alpha"
  bool used = false;
  std::string_view user;  // what uses it: "the transform smoothquant"
};

// Throws Error naming the first option that was typed and has nothing to work on: it would be lost
// in silence. What a recipe file says is not typed.
void refuse_unused(const CLI::App& command, std::span<const OptionUse> uses);

}  // namespace nibble
