// Options of calibration data, the same for every command that reads some.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "calibration/windows.h"

namespace nibble {

// ids_dtype: as typed, for parse_integer_type.
void declare_windows(CLI::App& command, CalibrationOptions& calibration, std::string& ids_dtype);

}  // namespace nibble
