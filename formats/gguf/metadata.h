// GgufMetadata: the typed keys and values of a GGUF file, in its order.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace nibble {

// Scalars, then arrays of them; arrays of arrays are not allowed.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, uint64_t, int64_t, double, std::vector<uint8_t>,
                               std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                               std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>,
                               std::vector<bool>, std::vector<std::string>, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>>;

class GgufMetadata {
 public:
  GgufMetadata() = default;
  // where: the file, for messages.
  explicit GgufMetadata(std::string where) : where_(std::move(where)) {}

  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }
  bool has(std::string_view key) const { return index_.contains(key); }
  // Null if there is none.
  const GgufValue* find(std::string_view key) const;
  // Throws Error for a key that is there already or is empty.
  void set(const std::string& key, GgufValue value);

  // Throw Error naming file and key: missing, or of another type. Integers of any width are read;
  // one beyond int64 is an error.
  const std::string& text(std::string_view key) const;
  int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;  // an integer is one too
  bool flag(std::string_view key) const;
  const std::vector<std::string>& texts(std::string_view key) const;
  const std::vector<float>& numbers(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;

  [[noreturn]] void fail(std::string_view key, const std::string& problem,
                         const std::string& hint = {}) const;

 private:
  const GgufValue& at(std::string_view key) const;

  std::string where_;
  std::vector<std::pair<std::string, GgufValue>> entries_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace nibble
