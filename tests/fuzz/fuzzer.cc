// What libFuzzer calls: the target that NIBBLE_FUZZ_TARGET names.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/target.h"

namespace {

const nibble::FuzzTarget& chosen_target() {
  const char* name = std::getenv("NIBBLE_FUZZ_TARGET");
  const nibble::FuzzTarget* target = nibble::fuzz_target(name == nullptr ? "" : name);
  if (target == nullptr) {
    std::fprintf(stderr, "NIBBLE_FUZZ_TARGET names no target\n");
    std::exit(2);
  }
  return *target;
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer calls it by this name
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nibble::FuzzTarget& target = chosen_target();
  nibble::run_target(target, {reinterpret_cast<const char*>(data), size});
  return 0;
}
