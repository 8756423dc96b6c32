// FuzzTarget: one reader of files that others wrote, as a function of bytes. A run ends normally or
// in a nibble::Error that says where; anything else (another exception, a sanitizer's report, a
// huge allocation, a hang) is a finding. tools/fuzz runs them under libFuzzer, tests/fuzz/replay.cc
// without it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct FuzzTarget {
  std::string_view name;
  std::string_view reads;  // for lists
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();  // sound inputs, to begin with
};

std::span<const FuzzTarget> fuzz_targets();
// Null if there is none of that name.
const FuzzTarget* fuzz_target(std::string_view name);

// target.run, where an Error is no finding if it says where. Throws std::logic_error for one that
// does not, and passes on every other exception.
void run_target(const FuzzTarget& target, std::string_view input);

}  // namespace nibble
