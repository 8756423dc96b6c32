// What users see: results on stdout, progress and warnings on stderr.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/cli/command.h"
#include "src/pipeline/progress.h"

namespace nibble {

void print(const std::string& text);          // stdout, with a newline
void print_json(const Json& json);            // stdout
void finish_output();                         // throws Error if stdout was not all written
void print_message(const std::string& text);  // stderr, with a newline

std::string format_bytes(int64_t bytes);     // "11.5 MB"
std::string format_seconds(double seconds);  // "0.21 s", "3 min 20 s"
std::string format_number(double value, int decimals);

// Columns padded to their widest cell; numbers to the right.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

// On a terminal one line that is rewritten, with rate and time left; otherwise a plain line at most
// every 10 seconds; none when the user wants none. Ends the run after Ctrl-C: src/cli/interrupt.h.
Progress make_progress(const CommandLine& line);

}  // namespace nibble
