#include "formats/config_fields.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

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

constexpr int64_t kLargest = int64_t{1} << 40;

std::optional<int64_t> as_integer(const Json& value) {
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(kLargest)
                        : value.is_number_integer() && value.get<int64_t>() >= -kLargest;
  return fits ? std::optional(value.get<int64_t>()) : std::nullopt;
}

[[noreturn]] void refuse(std::string_view key, const Json& value, const std::string& expected,
                         const std::string& where) {
  throw Error(where, "'" + std::string(key) + "' is " + shown(value) + ", expected " + expected);
}

}  // namespace

std::string shown(const Json& value) {
  constexpr size_t kLength = 60;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > kLength ? text.substr(0, kLength) + "..." : text;
}

std::optional<int64_t> integer_field(const Json& object, std::string_view key,
                                     const std::string& where) {
  const Json* value = field(object, key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> integer = as_integer(*value);
  if (!integer) refuse(key, *value, "an integer up to 2^40", where);
  return integer;
}

std::optional<std::array<int64_t, 2>> block_field(const Json& object, std::string_view key,
                                                  const std::string& where) {
  const Json* value = field(object, key);
  if (value == nullptr) return std::nullopt;
  const bool is_pair = value->is_array() && value->size() == 2;
  const int64_t rows = is_pair ? as_integer(value->at(0)).value_or(0) : 0;
  const int64_t columns = is_pair ? as_integer(value->at(1)).value_or(0) : 0;
  if (rows < 1 || columns < 1) refuse(key, *value, "two positive numbers up to 2^40", where);
  return {{rows, columns}};
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

std::string exactly(std::string_view text) {
  std::string expression = "^";
  for (const char c : text) {
    if (std::string_view(R"(.^$*+?()[]{}|\)").find(c) != std::string_view::npos) expression += '\\';
    expression += c;
  }
  return expression + "$";
}

}  // namespace nibble
