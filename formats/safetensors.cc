#include "formats/safetensors.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit
constexpr const char* kMetadata = "__metadata__";

// Bytes of a header that is about to be parsed.
std::string_view header_text(std::span<const std::byte> file, const std::string& where) {
  const auto file_bytes = static_cast<int64_t>(file.size());
  const std::string_view whole(reinterpret_cast<const char*>(file.data()), file.size());
  if (whole.starts_with("version https://git-lfs")) {
    throw Error(where, "a git-lfs pointer, not the file itself", "run git lfs pull");
  }
  if (file_bytes < kLengthBytes) {
    throw Error(where, std::to_string(file_bytes) + " bytes, too few for a safetensors file",
                kIncompleteDownload);
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    throw Error(where,
                "header of " + std::to_string(length) + " bytes declared, at most " +
                    std::to_string(kMaxHeaderBytes) + " allowed",
                "is it a safetensors file?");
  }
  const auto left = static_cast<uint64_t>(file_bytes - kLengthBytes);
  if (length > left) {
    throw Error(where,
                "header of " + std::to_string(length) + " bytes declared, " + std::to_string(left) +
                    " bytes left",
                kIncompleteDownload);
  }
  return whole.substr(kLengthBytes, static_cast<size_t>(length));
}

std::map<std::string, std::string> parse_metadata(const Json& value, const std::string& where) {
  if (!value.is_object()) throw Error(where, "__metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) throw Error(where, "__metadata__: '" + key + "' is not a string");
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

int64_t parse_size(const Json& value, const std::string& where, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
    const std::string found =
        value.is_number() ? value.dump() : "a " + std::string(value.type_name());
    throw Error(where, what + " is " + found + ", not an integer of 0..2^63-1");
  }
  return value.get<int64_t>();
}

void check_keys(const Json& value, const std::string& where) {
  if (!value.is_object()) throw Error(where, "its entry is not an object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) throw Error(where, "no " + std::string(key) + " in its entry");
  }
  for (const auto& item : value.items()) {
    if (item.key() != "dtype" && item.key() != "shape" && item.key() != "data_offsets") {
      throw Error(where, "unknown key '" + item.key() + "' in its entry");
    }
  }
}

Dtype parse_dtype(const Json& value, const std::string& where) {
  if (!value.is_string()) throw Error(where, "dtype is not a string");
  const auto& name = value.get_ref<const std::string&>();
  const std::optional<Dtype> dtype = dtype_from_name(name);
  if (!dtype) throw Error(where, "unknown dtype '" + name + "'");
  return *dtype;
}

Shape parse_shape(const Json& value, const std::string& where) {
  if (!value.is_array()) throw Error(where, "shape is not an array");
  Shape shape;
  for (const Json& dimension : value) shape.push_back(parse_size(dimension, where, "a dimension"));
  return shape;
}

// Exact bytes of a tensor; where the elements do not fill the last one, an error.
int64_t exact_bytes(const TensorInfo& info, const std::string& where) {
  int64_t bits = dtype_bits(info.dtype);
  for (const int64_t dimension : info.shape) {
    if (__builtin_mul_overflow(bits, dimension, &bits)) {
      throw Error(where, "shape " + to_string(info.shape) + " is too large");
    }
  }
  if (bits % 8 != 0) {
    throw Error(where, "shape " + to_string(info.shape) + " of " +
                           std::string(dtype_name(info.dtype)) + " is " + std::to_string(bits) +
                           " bits, not whole bytes");
  }
  return bits / 8;
}

SafetensorsEntry parse_entry(const std::string& name, const Json& value, const std::string& where) {
  check_keys(value, where);
  SafetensorsEntry entry;
  entry.info = {name, parse_dtype(value["dtype"], where), parse_shape(value["shape"], where)};
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    throw Error(where, "data_offsets is not an array of two");
  }
  entry.begin = parse_size(offsets[0], where, "a data offset");
  entry.end = parse_size(offsets[1], where, "a data offset");
  if (entry.begin > entry.end) {
    throw Error(where, "data_offsets run backwards, from " + std::to_string(entry.begin) + " to " +
                           std::to_string(entry.end));
  }
  const int64_t expected = exact_bytes(entry.info, where);
  if (entry.end - entry.begin != expected) {
    throw Error(where, std::to_string(entry.end - entry.begin) + " bytes in data_offsets, " +
                           std::to_string(expected) + " in " +
                           std::string(dtype_name(entry.info.dtype)) + " " +
                           to_string(entry.info.shape));
  }
  return entry;
}

// entries: by begin. Every byte of the data belongs to exactly one tensor.
void check_contiguous(const std::vector<SafetensorsEntry>& entries, int64_t data_bytes,
                      const std::string& where) {
  int64_t place = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != place) {
      throw Error(tensor_place(where, entry.info.name),
                  "begins at byte " + std::to_string(entry.begin) + " of the data, " +
                      std::to_string(place) + " expected",
                  entry.begin < place ? "two tensors overlap" : "bytes that belong to no tensor");
    }
    if (entry.end > data_bytes) {
      throw Error(tensor_place(where, entry.info.name),
                  "ends at byte " + std::to_string(entry.end) + " of the data, which has " +
                      std::to_string(data_bytes),
                  kIncompleteDownload);
    }
    place = entry.end;
  }
  if (place != data_bytes) {
    throw Error(where, std::to_string(data_bytes - place) + " bytes after the last tensor");
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t data_bytes,
                                           const std::string& where) {
  if (!text.starts_with('{')) {
    throw Error(where, "the header does not begin with '{'", "is it a safetensors file?");
  }
  const Json json = parse_json(text, where);
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata) {
      header.metadata = parse_metadata(value, where);
    } else {
      header.entries.push_back(parse_entry(name, value, tensor_place(where, name)));
    }
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
  });
  check_contiguous(header.entries, data_bytes, where);
  return header;
}

std::string safetensors_header_bytes(const SafetensorsHeader& header) {
  Json json = Json::object();
  if (!header.metadata.empty()) json[kMetadata] = header.metadata;
  auto& object = json.get_ref<Json::object_t&>();
  for (const SafetensorsEntry& entry : header.entries) {
    Json value;
    value["dtype"] = dtype_name(entry.info.dtype);
    value["shape"] = entry.info.shape;
    value["data_offsets"] = {entry.begin, entry.end};
    object.emplace_back(entry.info.name, std::move(value));  // operator[] would search: quadratic
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

bool precedes_in_file(const TensorInfo& a, const TensorInfo& b) {
  return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& file) {
  return std::shared_ptr<const SafetensorsFile>(new SafetensorsFile(file));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : file_(file) {
  const std::string where = file.string();
  const std::string_view text = header_text(file_.bytes(), where);
  data_begin_ = kLengthBytes + static_cast<int64_t>(text.size());
  const int64_t data_bytes = static_cast<int64_t>(file_.bytes().size()) - data_begin_;
  header_ = parse_safetensors_header(text, data_bytes, where);
  for (size_t i = 0; i < header_.entries.size(); ++i) {
    index_.emplace(header_.entries[i].info.name, i);
  }
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  return file_.bytes().subspan(static_cast<size_t>(data_begin_ + entry.begin),
                               static_cast<size_t>(entry.end - entry.begin));
}

void SafetensorsFile::release(const SafetensorsEntry& entry) const { file_.release(bytes(entry)); }

}  // namespace nibble
