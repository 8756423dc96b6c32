// A JSON value and the place it came from, so that whoever reads a tokenizer file complains with
// file and key: "tokenizer.json: model.vocab: not an object".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace nibble {

// Does not own the value.
class JsonView {
 public:
  JsonView(const Json& value, std::string file) : value_(&value), file_(std::move(file)) {}

  // A member; throws when the key is missing. find: nothing when it is missing or null.
  JsonView at(std::string_view key) const;
  std::optional<JsonView> find(std::string_view key) const;
  // Of an array; throws for anything else.
  std::vector<JsonView> elements() const;

  // Each throws unless the value has that type.
  const std::string& text() const;
  int64_t integer() const;
  bool flag() const;
  const Json& object() const;
  const Json& array() const;

  // A member, or what stands for it when it is missing or null.
  bool flag(std::string_view key, bool otherwise) const;
  std::string text(std::string_view key, const std::string& otherwise) const;

  const Json& value() const { return *value_; }
  std::string where() const { return path_.empty() ? file_ : file_ + ": " + path_; }
  [[noreturn]] void fail(const std::string& problem, const std::string& hint = {}) const;

 private:
  JsonView(const Json& value, std::string file, std::string path)
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}
  [[noreturn]] void wrong_type(const char* expected) const;

  const Json* value_;
  std::string file_;
  std::string path_;
};

}  // namespace nibble
