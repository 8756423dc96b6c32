// Fields of a quantization config that others wrote: absent and null are the same, any other type
// than the expected one is an Error(where, ...) that names the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/json.h"

namespace nibble {

std::optional<int64_t> integer_field(const Json& object, std::string_view key,
                                     const std::string& where);
std::optional<bool> bool_field(const Json& object, std::string_view key, const std::string& where);
std::optional<std::string> string_field(const Json& object, std::string_view key,
                                        const std::string& where);
// Lower-cased; empty when absent or no string. For recognizing, where a wrong type is no error.
std::string lower_name(const Json& object, std::string_view key);

// A Python regular expression matched at the beginning of `text`, as re.match does. Throws Error
// for an expression that this library cannot read.
bool matches_at_start(const std::string& expression, const std::string& text,
                      const std::string& where);
// An expression that matches exactly this text.
std::string exactly(std::string_view text);

}  // namespace nibble
