#include "src/cli/option_checks.h"

#include <cstdlib>
#include <limits>
#include <span>
#include <sstream>
#include <string>

#include "src/tensor/error.h"

namespace nibble {

CLI::Validator number_in(double low, double high) {
  std::ostringstream range;
  range << "number from " << low;
  if (high < std::numeric_limits<double>::max()) range << " to " << high;
  const std::string expected = range.str();
  return {[=](const std::string& text) -> std::string {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool is_number = end != text.c_str() && *end == '\0';
            return is_number && value >= low && value <= high ? "" : text + " is no " + expected;
          },
          expected};
}

void refuse_unused(const CLI::App& command, std::span<const OptionUse> uses) {
  for (const OptionUse& use : uses) {
    const std::string option(use.option);
    if (use.used || command.count(option) == 0) continue;
    throw Error(option, "has nothing to work on: it is for " + std::string(use.user),
                "leave it out");
  }
}

}  // namespace nibble
