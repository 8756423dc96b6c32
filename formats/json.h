// JSON as the project uses it: keys keep their order, so that a config.json rewritten by us reads
// like the original. Duplicate keys are refused.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace nibble {

using Json = nlohmann::ordered_json;

// Throws Error(where, ...) for text that is not one JSON value in UTF-8, with the byte position, or
// that names a key twice in one object.
Json parse_json(std::string_view text, const std::string& where);
Json read_json(const std::filesystem::path& file);

}  // namespace nibble
