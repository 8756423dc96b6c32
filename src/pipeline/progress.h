// Progress: how long-running work tells its caller where it is. The pipeline never prints.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace nibble {

struct ProgressEvent {
  std::string stage;  // "quantizing", "verifying", "evaluating"
  int64_t done = 0;
  int64_t total = 0;
  std::string unit;    // "weights", "tokens", "bytes"
  std::string detail;  // module or block; may be empty
};

using Progress = std::function<void(const ProgressEvent&)>;

}  // namespace nibble
