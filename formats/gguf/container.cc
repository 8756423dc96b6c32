#include "formats/gguf/container.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "formats/gguf/metadata.h"
#include "formats/gguf/types.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint32_t kOldestVersion = 2;  // the same bytes; 1 had 32-bit lengths
constexpr const char* kAlignmentKey = "general.alignment";
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kLargestAlignment = 1 << 20;
constexpr size_t kLongestName = 63;  // GGML_MAX_NAME, with its NUL
constexpr size_t kMostDimensions = 4;
constexpr uint32_t kArrayId = 9;

// The id of a value's type in the file: its place in the variant, but for arrays' own id.
constexpr uint32_t id_of_index(size_t index) {
  return static_cast<uint32_t>(index < kArrayId ? index : index + 1);
}
constexpr size_t kScalars = 12;

int64_t round_up(int64_t bytes, int64_t alignment, const std::string& where) {
  int64_t sum = 0;
  if (__builtin_add_overflow(bytes, alignment - 1, &sum)) throw Error(where, "is too large");
  return sum / alignment * alignment;
}

// Reads values off the front of a file; whatever is longer than what is left is an Error.
class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string where)
      : left_(file), size_(file.size()), where_(std::move(where)) {}

  // What is being read, for messages.
  void enter(std::string where) { where_ = std::move(where); }
  const std::string& where() const { return where_; }
  int64_t place() const { return static_cast<int64_t>(size_ - left_.size()); }
  size_t left() const { return left_.size(); }

  template <typename T>
  requires std::is_arithmetic_v<T> T next(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  bool next_bool() {
    const auto byte = next<uint8_t>("a bool");
    if (byte > 1) throw Error(where_, "a bool of value " + std::to_string(byte));
    return byte == 1;
  }
  // With at least `least` bytes for each.
  uint64_t next_count(const char* what, uint64_t least) {
    const auto count = next<uint64_t>(what);
    if (count > left_.size() / least) {
      throw Error(where_,
                  std::to_string(count) + " " + what + " declared, " +
                      std::to_string(left_.size()) + " bytes left",
                  kIncompleteDownload);
    }
    return count;
  }
  std::string next_string() {
    const auto length = next_count("bytes of a string", 1);
    const auto bytes = take(length, "a string");
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> take(size_t bytes, const char* what) {
    if (bytes > left_.size()) {
      throw Error(where_, "the file ends at byte " + std::to_string(size_) + " in " + what,
                  kIncompleteDownload);
    }
    const auto taken = left_.first(bytes);
    left_ = left_.subspan(bytes);
    return taken;
  }

  std::span<const std::byte> left_;
  size_t size_;
  std::string where_;
};

template <typename T>
T read_scalar(Reader& reader) {
  if constexpr (std::is_same_v<T, bool>) {
    return reader.next_bool();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return reader.next_string();
  } else {
    return reader.next<T>("a value");
  }
}

template <typename T>
std::vector<T> read_array(Reader& reader) {
  constexpr uint64_t kLeast = std::is_same_v<T, std::string> ? sizeof(uint64_t) : sizeof(T);
  std::vector<T> values;
  const auto count = reader.next_count("elements of an array", kLeast);
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) values.push_back(read_scalar<T>(reader));
  return values;
}

// The alternative of GgufValue whose id is `id`, read; `array`: the vector of that alternative.
template <size_t kIndex = 0>
GgufValue read_alternative(Reader& reader, uint32_t id, bool array) {
  if constexpr (kIndex < kScalars) {
    using T = std::variant_alternative_t<kIndex, GgufValue>;
    if (id != id_of_index(kIndex)) return read_alternative<kIndex + 1>(reader, id, array);
    if (array) return read_array<T>(reader);
    return read_scalar<T>(reader);
  } else {
    throw Error(reader.where(),
                id == kArrayId ? "an array of arrays"
                               : "value type " + std::to_string(id) + ", known are 0 to 12",
                id == kArrayId ? "" : "a newer format, or a damaged file?");
  }
}

GgufValue read_value(Reader& reader) {
  const auto id = reader.next<uint32_t>("the type of a value");
  const bool array = id == kArrayId;
  return read_alternative(reader, array ? reader.next<uint32_t>("the type of an array") : id,
                          array);
}

void check_start(std::span<const std::byte> file, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("version https://git-lfs")) {
    throw Error(where, "a git-lfs pointer, not the file itself", "run git lfs pull");
  }
  if (!text.starts_with(kMagic)) throw Error(where, "does not begin with 'GGUF'", "a GGUF file?");
}

void check_version(uint32_t version, const std::string& where) {
  if (version >= kOldestVersion && version <= kVersion) return;
  const bool swapped = (version & 0xFFFF) == 0 && version != 0;
  throw Error(where, swapped ? "a big-endian file" : "GGUF version " + std::to_string(version),
              "versions 2 and 3, little-endian, are read");
}

int64_t alignment_of(const GgufMetadata& metadata) {
  if (!metadata.has(kAlignmentKey)) return kDefaultAlignment;
  const int64_t alignment = metadata.integer(kAlignmentKey);
  if (alignment < 1 || alignment > kLargestAlignment ||
      !std::has_single_bit(static_cast<uint64_t>(alignment))) {
    metadata.fail(kAlignmentKey, "is " + std::to_string(alignment) + ", expected a power of two");
  }
  return alignment;
}

void check_name(const std::string& name, const std::string& where) {
  if (name.empty()) throw Error(where, "a tensor without a name");
  if (name.size() > kLongestName) {
    throw Error(tensor_place(where, name), "a name of " + std::to_string(name.size()) +
                                               " bytes, at most " + std::to_string(kLongestName) +
                                               " are allowed");
  }
}

GgufTensor read_tensor(Reader& reader, const std::string& where) {
  GgufTensor tensor;
  tensor.name = reader.next_string();
  check_name(tensor.name, where);
  reader.enter(tensor_place(where, tensor.name));
  const auto dimensions = reader.next<uint32_t>("the number of dimensions");
  if (dimensions > kMostDimensions) {
    throw Error(reader.where(), std::to_string(dimensions) + " dimensions, at most 4 are allowed");
  }
  tensor.shape.resize(dimensions);
  for (size_t i = dimensions; i-- > 0;) tensor.shape[i] = reader.next<int64_t>("a dimension");
  const auto id = reader.next<uint32_t>("the type");
  tensor.type = gguf_type(id);
  if (tensor.type == nullptr) {
    throw Error(reader.where(), "type " + std::to_string(id) + " is not known",
                "a newer format, or a damaged file?");
  }
  tensor.bytes = gguf_bytes(*tensor.type, tensor.shape, reader.where());
  tensor.offset = reader.next<int64_t>("the offset");
  return tensor;
}

// The tensors fill the data one after the other.
void check_places(const GgufHeader& header, int64_t file_bytes, const std::string& where) {
  int64_t place = 0;
  for (const GgufTensor& tensor : header.tensors) {
    const std::string tensor_where = tensor_place(where, tensor.name);
    if (tensor.offset != place) {
      throw Error(tensor_where, "begins at byte " + std::to_string(tensor.offset) +
                                    " of the data, expected " + std::to_string(place) +
                                    ", the end of the tensor before it");
    }
    const int64_t room = file_bytes - header.data_begin;
    if (place > room || tensor.bytes > room - place) {
      throw Error(tensor_where,
                  std::to_string(tensor.bytes) + " bytes declared, " +
                      std::to_string(place > room ? 0 : room - place) + " left",
                  kIncompleteDownload);
    }
    place = round_up(place + tensor.bytes, header.alignment, tensor_where);
  }
}

template <typename T>
requires std::is_arithmetic_v<T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}
void append(std::string& bytes, bool value) { bytes.push_back(value ? '\1' : '\0'); }
void append(std::string& bytes, const std::string& value) {
  append(bytes, uint64_t{value.size()});
  bytes += value;
}

void append_value(std::string& bytes, const GgufValue& value) {
  const bool array = value.index() >= kScalars;
  if (array) append(bytes, kArrayId);
  append(bytes, id_of_index(value.index() % kScalars));
  std::visit(
      [&bytes](const auto& content) {
        using T = std::decay_t<decltype(content)>;
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
          append(bytes, content);
        } else {
          append(bytes, uint64_t{content.size()});
          for (const typename T::value_type& element : content) append(bytes, element);
        }
      },
      value);
}

}  // namespace

int64_t gguf_bytes(const GgufType& type, const Shape& shape, const std::string& where) {
  if (shape.size() > kMostDimensions) {
    throw Error(where, std::to_string(shape.size()) + " dimensions, at most 4 are allowed");
  }
  int64_t elements = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 1) throw Error(where, "a dimension of " + std::to_string(dimension));
    if (__builtin_mul_overflow(elements, dimension, &elements)) {
      throw Error(where, "shape " + to_string(shape) + " is too large");
    }
  }
  const int64_t row = shape.empty() ? 1 : shape.back();
  if (row % type.block != 0) {
    throw Error(where, "rows of " + std::to_string(row) + " elements, " + std::string(type.name) +
                           " has blocks of " + std::to_string(type.block));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / type.block, type.block_bytes, &bytes)) {
    throw Error(where, "shape " + to_string(shape) + " is too large");
  }
  return bytes;
}

GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& where) {
  check_start(file, where);
  Reader reader(file, where);
  reader.next<uint32_t>("the magic");
  check_version(reader.next<uint32_t>("the version"), where);
  // The shortest tensor: name, dimensions, type, offset; the shortest key: length, type, value.
  const auto tensors = reader.next_count("tensors", 8 + 1 + 4 + 4 + 8);
  const auto keys = reader.next_count("metadata keys", 8 + 1 + 4 + 1);
  GgufHeader header{.metadata = GgufMetadata(where), .tensors = {}};
  for (uint64_t i = 0; i < keys; ++i) {
    reader.enter(where + ": metadata key " + std::to_string(i));
    const std::string key = reader.next_string();
    reader.enter(std::string(where).append(": metadata '").append(key).append("'"));
    header.metadata.set(key, read_value(reader));
  }
  header.alignment = alignment_of(header.metadata);
  std::set<std::string_view> names;
  header.tensors.reserve(tensors);
  for (uint64_t i = 0; i < tensors; ++i) {
    reader.enter(where + ": tensor " + std::to_string(i));
    header.tensors.push_back(read_tensor(reader, where));
    const std::string& name = header.tensors.back().name;
    if (!names.insert(name).second) throw Error(tensor_place(where, name), "is there twice");
  }
  header.data_begin = round_up(reader.place(), header.alignment, where);
  check_places(header, std::ssize(file), where);
  return header;
}

std::string gguf_header_bytes(GgufHeader& header, const std::string& where) {
  header.alignment = alignment_of(header.metadata);
  std::string bytes(kMagic);
  append(bytes, kVersion);
  append(bytes, uint64_t{header.tensors.size()});
  append(bytes, uint64_t{header.metadata.entries().size()});
  for (const auto& [key, value] : header.metadata.entries()) {
    append(bytes, key);
    append_value(bytes, value);
  }
  std::set<std::string_view> names;
  int64_t place = 0;
  for (GgufTensor& tensor : header.tensors) {
    check_name(tensor.name, where);
    const std::string tensor_where = tensor_place(where, tensor.name);
    if (!names.insert(tensor.name).second) throw Error(tensor_where, "is there twice");
    tensor.bytes = gguf_bytes(*tensor.type, tensor.shape, tensor_where);
    tensor.offset = place;
    place = round_up(place + tensor.bytes, header.alignment, tensor_where);
    append(bytes, tensor.name);
    append(bytes, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) append(bytes, tensor.shape[i]);
    append(bytes, tensor.type->id);
    append(bytes, tensor.offset);
  }
  header.data_begin = round_up(std::ssize(bytes), header.alignment, where);
  bytes.resize(static_cast<size_t>(header.data_begin));
  return bytes;
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& file) {
  return std::shared_ptr<const GgufFile>(new GgufFile(file));
}

GgufFile::GgufFile(const std::filesystem::path& file)
    : file_(file), header_(parse_gguf(file_.bytes(), file.string())) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return file_.bytes().subspan(static_cast<size_t>(header_.data_begin + tensor.offset),
                               static_cast<size_t>(tensor.bytes));
}

}  // namespace nibble
