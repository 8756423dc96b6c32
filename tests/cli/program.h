// Runs the real binary in tests and keeps what it printed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "formats/json.h"

namespace nibble {

struct ProgramResult {
  int status = -1;
  std::string out;
  std::string err;
};

// environment: "NAME=value" entries added to the test's own. file_bytes: no file may grow beyond
// (0: any).
ProgramResult run_nibble(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment = {}, int64_t file_bytes = 0);

// The same; `meanwhile` runs beside the program.
ProgramResult run_nibble_with(const std::vector<std::string>& arguments,
                              const std::function<void(pid_t program)>& meanwhile);

// The object it prints with --json; the calling test fails unless it ends with `status`.
Json run_json(std::vector<std::string> arguments, int status = 0);

}  // namespace nibble
