// The format of .npy: numpy.lib.format, "Format Version 1.0" to "3.0".
#include "calibration/token_ids.h"

#include <cctype>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

struct IntegerType {
  size_t bytes = 0;  // 1, 2, 4 or 8
  bool is_signed = false;
  bool big_endian = false;
};

// The value as 64 bits; a signed one sign-extended.
uint64_t load_integer(const char* at, const IntegerType& type) {
  uint64_t value = 0;
  for (size_t i = 0; i < type.bytes; ++i) {
    const size_t significance = type.big_endian ? type.bytes - 1 - i : i;
    value |= static_cast<uint64_t>(static_cast<unsigned char>(at[i])) << (8 * significance);
  }
  const int unused = 64 - 8 * static_cast<int>(type.bytes);
  if (!type.is_signed) return value;
  return static_cast<uint64_t>(static_cast<int64_t>(value << unused) >> unused);
}

std::vector<int32_t> load_ids(std::string_view data, const IntegerType& type,
                              const std::filesystem::path& file) {
  std::vector<int32_t> ids(data.size() / type.bytes);
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint64_t bits = load_integer(data.data() + i * type.bytes, type);
    if (bits > uint64_t{std::numeric_limits<int32_t>::max()}) {
      const std::string value =
          type.is_signed ? std::to_string(static_cast<int64_t>(bits)) : std::to_string(bits);
      throw Error(file.string(),
                  "id " + value + " at position " + std::to_string(i) + " is no token id",
                  "ids are 0 to 2147483647; is the integer type right?");
    }
    ids[i] = static_cast<int32_t>(bits);
  }
  if (ids.empty()) throw Error(file.string(), "has no ids");
  return ids;
}

struct NpyHeader {
  std::string_view dictionary;
  std::string_view data;
};

NpyHeader read_npy_header(std::string_view bytes, const std::string& where) {
  if (!bytes.starts_with("\x93NUMPY")) throw Error(where, "does not start as a .npy file does");
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  if (bytes.size() < 10) throw Error(where, "the .npy header is cut off");
  const unsigned version = byte(6);
  if (version < 1 || version > 3) {
    throw Error(where, ".npy format version " + std::to_string(version) + ", known are 1 to 3");
  }
  const size_t width = version == 1 ? 2 : 4;
  const size_t start = 8 + width;
  if (bytes.size() < start) throw Error(where, "the .npy header is cut off");
  const uint64_t size = load_integer(bytes.data() + 8, {width, false, false});
  if (size > bytes.size() - start) {
    throw Error(where, "the .npy header has " + std::to_string(size) + " bytes, the file has " +
                           std::to_string(bytes.size() - start) + " left");
  }
  return {bytes.substr(start, size), bytes.substr(start + size)};
}

// What stands behind 'key': in the header, a Python dictionary.
std::string_view npy_value(std::string_view dictionary, std::string_view key,
                           const std::string& where) {
  const std::string quoted = std::string("'").append(key).append("'");
  const size_t at = dictionary.find(quoted);
  const size_t colon = at == std::string_view::npos ? at : dictionary.find(':', at);
  if (colon == std::string_view::npos) {
    throw Error(where, "the .npy header has no " + quoted);
  }
  const size_t begin = dictionary.find_first_not_of(' ', colon + 1);
  return begin == std::string_view::npos ? std::string_view() : dictionary.substr(begin);
}

// From "'<u2'".
IntegerType npy_type(std::string_view value, const std::string& where) {
  const size_t end = value.find('\'', 1);
  const bool quoted = value.starts_with('\'') && end != std::string_view::npos;
  const std::string_view name = quoted ? value.substr(1, end - 1) : std::string_view();
  const bool known = name.size() == 3 && std::string_view("<>|=").find(name[0]) != name.npos &&
                     (name[1] == 'i' || name[1] == 'u') &&
                     std::string_view("1248").find(name[2]) != name.npos;
  if (!known) {
    throw Error(where,
                "elements of type " + std::string(quoted ? name : value.substr(0, 20)) +
                    ", expected integers",
                "save the ids with numpy as int32");
  }
  return {static_cast<size_t>(name[2] - '0'), name[1] == 'i', name[0] == '>'};
}

// From "(2, 512)"; throws unless it has one or two dimensions and their product fits.
std::vector<uint64_t> npy_shape(std::string_view value, const std::string& where) {
  const size_t end = value.find(')');
  if (!value.starts_with('(') || end == std::string_view::npos) {
    throw Error(where, "the .npy header has no shape in parentheses");
  }
  std::vector<uint64_t> shape;
  std::string_view rest = value.substr(1, end - 1);
  while (!rest.empty()) {
    if (rest[0] == ' ' || rest[0] == ',') {
      rest.remove_prefix(1);
      continue;
    }
    uint64_t size = 0;
    const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), size);
    if (error != std::errc() || size > (uint64_t{1} << 40)) {
      throw Error(where, "the .npy header has a broken shape");
    }
    shape.push_back(size);
    rest.remove_prefix(static_cast<size_t>(stop - rest.data()));
  }
  if (shape.empty() || shape.size() > 2) {
    throw Error(where, "an array of " + std::to_string(shape.size()) +
                           " dimensions, expected one, or two with a sequence a row");
  }
  return shape;
}

IntegerType integer_type(Dtype dtype, const std::filesystem::path& file) {
  switch (dtype) {
    case Dtype::kU8:
    case Dtype::kI8:
    case Dtype::kU16:
    case Dtype::kI16:
    case Dtype::kU32:
    case Dtype::kI32:
    case Dtype::kU64:
    case Dtype::kI64:
      break;
    default:
      throw Error(file.string(), "ids of type " + std::string(dtype_name(dtype)),
                  "the type of ids is an integer type: u8, u16, i32, ...");
  }
  return {static_cast<size_t>(dtype_bits(dtype)) / 8, dtype_name(dtype).starts_with('I'), false};
}

}  // namespace

std::vector<int32_t> ids_from_npy(std::string_view bytes, const std::filesystem::path& file) {
  const std::string where = file.string();
  const NpyHeader header = read_npy_header(bytes, where);
  const IntegerType type = npy_type(npy_value(header.dictionary, "descr", where), where);
  const auto shape = npy_shape(npy_value(header.dictionary, "shape", where), where);
  const std::string_view order = npy_value(header.dictionary, "fortran_order", where);
  if (!order.starts_with("True") && !order.starts_with("False")) {
    throw Error(where, "the .npy header says neither True nor False for 'fortran_order'");
  }
  if (shape.size() == 2 && order.starts_with("True")) {
    throw Error(where, "the array is stored by columns (fortran_order)",
                "save numpy.ascontiguousarray(ids)");
  }
  // Each factor is at most 2^40 and the product is compared before it can overflow.
  const uint64_t rows = shape.size() == 2 ? shape[0] : 1;
  const uint64_t available = header.data.size() / type.bytes;
  const bool fits = shape.back() == 0 || rows <= available / shape.back();
  const bool exact = fits && rows * shape.back() * type.bytes == header.data.size();
  if (!exact) {
    throw Error(
        where,
        "the shape does not fit the " + std::to_string(header.data.size()) + " bytes of data",
        "is the file complete?");
  }
  return load_ids(header.data, type, file);
}

std::vector<int32_t> ids_from_binary(std::string_view bytes, Dtype dtype,
                                     const std::filesystem::path& file) {
  const IntegerType type = integer_type(dtype, file);
  if (bytes.size() % type.bytes != 0) {
    throw Error(file.string(),
                std::to_string(bytes.size()) + " bytes are no whole number of " +
                    std::string(dtype_name(dtype)) + " ids",
                "is --ids-dtype right?");
  }
  return load_ids(bytes, type, file);
}

}  // namespace nibble
