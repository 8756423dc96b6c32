#include "src/model/json_view.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {

JsonView JsonView::at(std::string_view key) const {
  const auto member = object().find(std::string(key));
  if (member == value_->end()) fail("key '" + std::string(key) + "' is missing");
  return JsonView(*member, file_,
                  path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

std::optional<JsonView> JsonView::find(std::string_view key) const {
  const auto member = object().find(std::string(key));
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return at(key);
}

std::vector<JsonView> JsonView::elements() const {
  std::vector<JsonView> result;
  size_t i = 0;
  for (const Json& element : array()) {
    result.push_back(JsonView(element, file_, path_ + "[" + std::to_string(i++) + "]"));
  }
  return result;
}

const std::string& JsonView::text() const {
  if (!value_->is_string()) wrong_type("a string");
  return value_->get_ref<const std::string&>();
}

int64_t JsonView::integer() const {
  if (!value_->is_number_integer()) wrong_type("an integer");
  const bool fits = !value_->is_number_unsigned() ||
                    value_->get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
  if (!fits) wrong_type("an integer of 64 bits");
  return value_->get<int64_t>();
}

bool JsonView::flag() const {
  if (!value_->is_boolean()) wrong_type("true or false");
  return value_->get<bool>();
}

const Json& JsonView::object() const {
  if (!value_->is_object()) wrong_type("an object");
  return *value_;
}

const Json& JsonView::array() const {
  if (!value_->is_array()) wrong_type("an array");
  return *value_;
}

bool JsonView::flag(std::string_view key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->flag() : otherwise;
}

std::string JsonView::text(std::string_view key, const std::string& otherwise) const {
  const auto member = find(key);
  return member ? member->text() : otherwise;
}

void JsonView::fail(const std::string& problem, const std::string& hint) const {
  throw Error(where(), problem, hint);
}

void JsonView::wrong_type(const char* expected) const {
  fail(std::string("expected ") + expected + ", found " + value_->type_name());
}

}  // namespace nibble
