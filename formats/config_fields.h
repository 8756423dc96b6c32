// Fields of a quantization config that others wrote: absent and null are the same, any other type
// than the expected one is an Error(where, ...) that names the field.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/json.h"

namespace nibble {

// At most 2^40 either way, so that products of sizes do not overflow.
std::optional<int64_t> integer_field(const Json& object, std::string_view key,
                                     const std::string& where);
// [rows, columns], each 1 to 2^40.
std::optional<std::array<int64_t, 2>> block_field(const Json& object, std::string_view key,
                                                  const std::string& where);
std::optional<bool> bool_field(const Json& object, std::string_view key, const std::string& where);
std::optional<std::string> string_field(const Json& object, std::string_view key,
                                        const std::string& where);
// Lower-cased; empty when absent or no string. For recognizing, where a wrong type is no error.
std::string lower_name(const Json& object, std::string_view key);

// A value on one line of ASCII, cut after 60 characters: for messages. Never throws, unlike dump(),
// which refuses text that is no UTF-8 (GGUF files may hold any).
std::string shown(const Json& value);

// A regular expression (formats/name_pattern.h) that matches exactly this text.
std::string exactly(std::string_view text);

}  // namespace nibble
