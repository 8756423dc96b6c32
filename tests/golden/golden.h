// Golden files: what other programs computed, with the scripts of tools/golden.
#pragma once

#include <string>

#include "formats/json.h"
#include "tests/test_data.h"

namespace nibble {

// "results" of tests/golden/<name>.json.
inline Json golden_results(const std::string& name) {
  return read_json(own_test_data().parent_path() / "golden" / (name + ".json"))["results"];
}

}  // namespace nibble
