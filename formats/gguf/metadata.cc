#include "formats/gguf/metadata.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {
namespace {

template <typename T>
inline constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

template <typename T>
std::optional<int64_t> as_integer(T value) {
  if (std::cmp_greater(value, std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(value);
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

void GgufMetadata::set(const std::string& key, GgufValue value) {
  if (key.empty()) throw Error(where_, "a metadata key is empty");
  if (!index_.emplace(key, entries_.size()).second) fail(key, "is there twice");
  entries_.emplace_back(key, std::move(value));
}

void GgufMetadata::fail(std::string_view key, const std::string& problem,
                        const std::string& hint) const {
  throw Error(where_ + ": metadata '" + std::string(key) + "'", problem, hint);
}

const GgufValue& GgufMetadata::at(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) fail(key, "is missing");
  return *value;
}

const std::string& GgufMetadata::text(std::string_view key) const {
  const auto* value = std::get_if<std::string>(&at(key));
  if (value == nullptr) fail(key, "is no string");
  return *value;
}

int64_t GgufMetadata::integer(std::string_view key) const {
  const std::optional<int64_t> found = std::visit(
      [](const auto& value) -> std::optional<int64_t> {
        if constexpr (kIsInteger<std::decay_t<decltype(value)>>) return as_integer(value);
        return std::nullopt;
      },
      at(key));
  if (!found) fail(key, "is no integer below 2^63");
  return *found;
}

double GgufMetadata::number(std::string_view key) const {
  const GgufValue& value = at(key);
  if (const auto* single = std::get_if<float>(&value)) return static_cast<double>(*single);
  if (const auto* wide = std::get_if<double>(&value)) return *wide;
  return static_cast<double>(integer(key));
}

bool GgufMetadata::flag(std::string_view key) const {
  const auto* value = std::get_if<bool>(&at(key));
  if (value == nullptr) fail(key, "is no bool");
  return *value;
}

const std::vector<std::string>& GgufMetadata::texts(std::string_view key) const {
  const auto* value = std::get_if<std::vector<std::string>>(&at(key));
  if (value == nullptr) fail(key, "is no array of strings");
  return *value;
}

const std::vector<float>& GgufMetadata::numbers(std::string_view key) const {
  const auto* value = std::get_if<std::vector<float>>(&at(key));
  if (value == nullptr) fail(key, "is no array of f32");
  return *value;
}

std::vector<int64_t> GgufMetadata::integers(std::string_view key) const {
  std::vector<int64_t> result;
  const bool read = std::visit(
      [&result](const auto& value) {
        if constexpr (!std::is_arithmetic_v<std::decay_t<decltype(value)>> &&
                      !std::is_same_v<std::decay_t<decltype(value)>, std::string>) {
          using Element = typename std::decay_t<decltype(value)>::value_type;
          if constexpr (kIsInteger<Element>) {
            for (const Element element : value) {
              const std::optional<int64_t> integer = as_integer(element);
              if (!integer) return false;
              result.push_back(*integer);
            }
            return true;
          }
        }
        return false;
      },
      at(key));
  if (!read) fail(key, "is no array of integers below 2^63");
  return result;
}

}  // namespace nibble
