#include "formats/config_fields.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>

#include "formats/json.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// The value, or null when it is absent or null.
const Json* field(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void refuse(std::string_view key, const Json& value, const std::string& expected,
                         const std::string& where) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  throw Error(where, "'" + std::string(key) + "' is " + text + ", expected " + expected);
}

}  // namespace

std::optional<int64_t> integer_field(const Json& object, std::string_view key,
                                     const std::string& where) {
  const Json* value = field(object, key);
  if (value == nullptr) return std::nullopt;
  const bool fits = value->is_number_unsigned() ? std::in_range<int64_t>(value->get<uint64_t>())
                                                : value->is_number_integer();
  if (!fits) refuse(key, *value, "an integer", where);
  return value->get<int64_t>();
}

std::optional<bool> bool_field(const Json& object, std::string_view key, const std::string& where) {
  const Json* value = field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(key, *value, "true or false", where);
  return value->get<bool>();
}

std::optional<std::string> string_field(const Json& object, std::string_view key,
                                        const std::string& where) {
  const Json* value = field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(key, *value, "a string", where);
  return value->get<std::string>();
}

std::string lower_name(const Json& object, std::string_view key) {
  const Json* value = field(object, key);
  if (value == nullptr || !value->is_string()) return {};
  auto name = value->get<std::string>();
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

bool matches_at_start(const std::string& expression, const std::string& text,
                      const std::string& where) {
  try {
    return std::regex_search(text, std::regex(expression), std::regex_constants::match_continuous);
  } catch (const std::regex_error&) {
    throw Error(where, "regular expression '" + expression + "' is not understood",
                "supported: the syntax that Python and ECMAScript share");
  }
}

std::string exactly(std::string_view text) {
  std::string expression = "^";
  for (const char c : text) {
    if (std::string_view(R"(.^$*+?()[]{}|\)").find(c) != std::string_view::npos) expression += '\\';
    expression += c;
  }
  return expression + "$";
}

}  // namespace nibble
