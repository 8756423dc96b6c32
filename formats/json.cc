#include "formats/json.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {
namespace {

// No file of a model is nested deeper than about ten; a bound keeps whoever walks it safe.
constexpr size_t kMaxDepth = 256;
// An object with fewer keys is searched, one with more gets a hash set: vocabularies have 10^5.
constexpr size_t kSearchedKeys = 16;

// What may be shown of a file's bytes in a message: one line of ASCII.
std::string printable(std::string_view text) {
  constexpr size_t kLength = 80;
  std::string shown(text.substr(0, kLength));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return text.size() > kLength ? shown + "..." : shown;
}

// Builds the value from the parser's events. nlohmann's own builder would look for each new key
// among all before it (quadratic, in an ordered object) and let the last of two equal keys win.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // never in text

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (!is_new(level, name)) {
      throw Error(where_, "key '" + printable(name) + "' appears twice in " + path());
    }
    // An ordered object is a vector of pairs; emplace_back appends without searching it.
    level.value->get_ref<Json::object_t&>().emplace_back(std::move(name), nullptr);
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string text = error.what();  // "[json.exception...] parse error at line 1, column 2: ..."
    const size_t end_of_place = text.find(": ");
    if (end_of_place != std::string::npos) text.erase(0, end_of_place + 2);
    throw Error(where_, "not valid JSON at byte " + std::to_string(position) +
                            (levels_.empty() ? "" : ", in " + path()) + ": " + printable(text));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;  // empty while there are few
  };

  static bool is_new(Level& level, const std::string& name) {
    const auto& object = level.value->get_ref<const Json::object_t&>();
    if (object.size() < kSearchedKeys) {
      return std::none_of(object.begin(), object.end(),
                          [&](const auto& entry) { return entry.first == name; });
    }
    if (level.keys.empty()) {
      for (const auto& entry : object) level.keys.insert(entry.first);
    }
    return level.keys.insert(name).second;
  }

  // Where the next value goes.
  Json& place() {
    if (levels_.empty()) return root_;
    Json& parent = *levels_.back().value;
    if (parent.is_object()) return parent.get_ref<Json::object_t&>().back().second;
    return parent.get_ref<Json::array_t&>().emplace_back();
  }

  bool add(Json value) {
    place() = std::move(value);
    return true;
  }

  bool open(Json container) {
    if (levels_.size() == kMaxDepth) {
      throw Error(where_, "JSON is nested deeper than " + std::to_string(kMaxDepth) +
                              " levels, in " + path());
    }
    Json& value = place();
    value = std::move(container);
    levels_.push_back({&value, {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  // Of the object being read: "'a' > 'b'".
  std::string path() const {
    std::string text;
    for (size_t i = 0; i + 1 < levels_.size() && text.size() < 200; ++i) {
      if (!levels_[i].value->is_object()) continue;
      const std::string& name = levels_[i].value->get_ref<const Json::object_t&>().back().first;
      text += (text.empty() ? "'" : " > '") + printable(name) + "'";
    }
    return text.empty() ? "the outermost object" : text;
  }

  const std::string& where_;
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  // The parser takes a zero byte for the end of the text.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw Error(where, "not valid JSON at byte " + std::to_string(zero) + ": a zero byte");
  }
  Builder builder(where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) {
    throw Error(file.string(), "cannot be read", "is the file there and readable?");
  }
  const std::string text((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  if (stream.bad()) throw Error(file.string(), "reading failed");
  return parse_json(text, file.string());
}

}  // namespace nibble
