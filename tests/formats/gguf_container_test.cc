// GGUF files: what llama.cpp wrote is read and written again byte for byte; every rule of the
// format is broken once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/types.h"
#include "formats/gguf/writer.h"
#include "src/tensor/error.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

// ---- bytes written by hand ----------------------------------------------------------------------

template <typename T>
std::string number(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
std::string u32(uint32_t value) { return number(value); }
std::string u64(uint64_t value) { return number(value); }
std::string text(const std::string& value) { return u64(value.size()) + value; }

struct RawTensor {
  std::string name = "t";
  std::vector<int64_t> dimensions = {4};  // in the file's order
  uint32_t type = 0;
  uint64_t offset = 0;
};

struct RawFile {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t extra_tensors = 0;  // declared, but not there
  uint64_t extra_keys = 0;
  std::vector<std::string> keys;  // key, type and value
  std::vector<RawTensor> tensors = {{}};
  size_t data_bytes = 16;

  std::string header() const {
    std::string bytes =
        magic + u32(version) + u64(tensors.size() + extra_tensors) + u64(keys.size() + extra_keys);
    for (const std::string& key : keys) bytes += key;
    for (const RawTensor& tensor : tensors) {
      bytes += text(tensor.name) + u32(static_cast<uint32_t>(tensor.dimensions.size()));
      for (const int64_t dimension : tensor.dimensions) bytes += number(dimension);
      bytes += u32(tensor.type) + u64(tensor.offset);
    }
    return bytes;
  }
  std::string bytes(size_t alignment = 32) const {
    std::string result = header();
    result.resize((result.size() + alignment - 1) / alignment * alignment);
    return result + std::string(data_bytes, 'x');
  }
};

GgufHeader parse(const std::string& bytes) {
  return parse_gguf(std::as_bytes(std::span(bytes)), "m.gguf");
}

std::string parse_error(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string error_with(const std::function<void(RawFile&)>& damage) {
  RawFile file;
  damage(file);
  return parse_error(file.bytes());
}

// ---- files of llama.cpp -------------------------------------------------------------------------

class LlamaCppFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(LlamaCppFiles, AreReadAndWrittenAgainByteForByte) {
  NIBBLE_NEEDS_TEST_DATA();
  const auto source = test_data() / "models" / GetParam();
  const auto file = GgufFile::open(source);
  EXPECT_EQ(file->metadata().text("general.architecture"), "llama");
  EXPECT_EQ(file->metadata().integer("llama.block_count"), 2);
  EXPECT_EQ(file->metadata().texts("tokenizer.ggml.tokens").size(), 2048U);
  const GgufTensor* down = file->find("blk.1.ffn_down.weight");
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->shape, (Shape{128, 384}));
  EXPECT_EQ(file->find("blk.2.ffn_down.weight"), nullptr);

  const TemporaryFolder folder;
  const auto copy = folder.path() / "copy.gguf";
  GgufWriter writer(copy, false, file->metadata(), file->tensors());
  for (const GgufTensor& tensor : file->tensors()) writer.write(tensor.name, file->bytes(tensor));
  writer.finish();
  EXPECT_TRUE(read_file(copy) == read_file(source));
}

INSTANTIATE_TEST_SUITE_P(Both, LlamaCppFiles,
                         ::testing::Values("tinystories-656k.f16.gguf",
                                           "tinystories-656k.q8_0.gguf"));

// ---- what is read -------------------------------------------------------------------------------

TEST(GgufRead, EveryTypeOfValue) {
  RawFile file;
  const auto key = [&](const std::string& name, uint32_t type, const std::string& value) {
    file.keys.push_back(text(name) + u32(type) + value);
  };
  key("u8", 0, number<uint8_t>(200));
  key("i8", 1, number<int8_t>(-3));
  key("u16", 2, number<uint16_t>(60000));
  key("i16", 3, number<int16_t>(-300));
  key("u32", 4, u32(4000000000));
  key("i32", 5, number<int32_t>(-5));
  key("f32", 6, number(0.5F));
  key("bool", 7, number<uint8_t>(1));
  key("string", 8, text("a\"b"));
  key("u64", 10, u64(uint64_t{1} << 40));
  key("i64", 11, number<int64_t>(-7));
  key("f64", 12, number(0.25));
  key("strings", 9, u32(8) + u64(2) + text("x") + text(""));
  key("bools", 9, u32(7) + u64(2) + std::string("\1\0", 2));
  key("i32s", 9, u32(5) + u64(2) + number<int32_t>(-1) + number<int32_t>(9));
  key("f32s", 9, u32(6) + u64(1) + number(1.5F));
  key("empty", 9, u32(12) + u64(0));
  const std::string bytes = file.bytes();
  GgufHeader header = parse(bytes);
  const GgufMetadata& read = header.metadata;
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, int64_t>>{{"u8", 200},
                                                    {"i8", -3},
                                                    {"u16", 60000},
                                                    {"i16", -300},
                                                    {"u32", 4000000000},
                                                    {"i32", -5},
                                                    {"u64", int64_t{1} << 40},
                                                    {"i64", -7}}) {
    EXPECT_EQ(read.integer(name), value) << name;
  }
  EXPECT_EQ(read.number("f32"), 0.5);
  EXPECT_EQ(read.number("f64"), 0.25);
  EXPECT_EQ(read.number("i8"), -3.);
  EXPECT_TRUE(read.flag("bool"));
  EXPECT_EQ(read.text("string"), "a\"b");
  EXPECT_EQ(read.texts("strings"), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(std::get<std::vector<bool>>(*read.find("bools")), (std::vector<bool>{true, false}));
  EXPECT_EQ(read.integers("i32s"), (std::vector<int64_t>{-1, 9}));
  EXPECT_EQ(read.numbers("f32s"), (std::vector<float>{1.5F}));
  EXPECT_TRUE(std::get<std::vector<double>>(*read.find("empty")).empty());
  const std::string written = gguf_header_bytes(header, "m.gguf");
  EXPECT_EQ(written, bytes.substr(0, written.size()));

  EXPECT_THROW(read.text("u8"), Error);
  EXPECT_THROW(read.integer("f32"), Error);
  EXPECT_THROW(read.flag("u8"), Error);
  EXPECT_THROW(read.integers("f32s"), Error);
  EXPECT_THROW(read.number("absent"), Error);
}

TEST(GgufRead, ShapesOutermostFirstAndTheAlignmentKey) {
  RawFile file;
  file.keys = {text("general.alignment") + u32(4) + u32(64)};
  file.tensors = {{.name = "a", .dimensions = {32, 3}, .type = 2},
                  {.name = "b", .dimensions = {5}, .type = 30, .offset = 64}};
  file.data_bytes = 64 + 10;  // padding after the last tensor may be absent
  const GgufHeader header = parse(file.bytes(64));
  EXPECT_EQ(header.tensors[0].shape, (Shape{3, 32}));
  EXPECT_EQ(header.tensors[0].bytes, 54);
  EXPECT_EQ(header.tensors[1].bytes, 10);
  EXPECT_EQ(header.data_begin % 64, 0);
  file.data_bytes = 500;  // as llama.cpp
  EXPECT_NO_THROW(parse(file.bytes(64)));
}

TEST(GgufRead, Version2) {
  RawFile file;
  file.version = 2;
  EXPECT_EQ(parse(file.bytes()).tensors.size(), 1U);
}

// ---- what is refused ----------------------------------------------------------------------------

TEST(GgufRefuses, FilesThatAreNoGguf) {
  EXPECT_THAT(parse_error(""), HasSubstr("m.gguf: does not begin with 'GGUF'"));
  EXPECT_THAT(parse_error("GGU"), HasSubstr("does not begin"));
  EXPECT_THAT(parse_error("PK\3\4 and more"), HasSubstr("does not begin"));
  EXPECT_THAT(parse_error("version https://git-lfs.github.com/spec/v1"), HasSubstr("git lfs pull"));
  EXPECT_THAT(error_with([](RawFile& f) { f.version = 1; }), HasSubstr("GGUF version 1"));
  EXPECT_THAT(error_with([](RawFile& f) { f.version = 4; }), HasSubstr("GGUF version 4"));
  EXPECT_THAT(error_with([](RawFile& f) { f.version = 0x03000000; }), HasSubstr("big-endian"));
}

TEST(GgufRefuses, TheEndOfTheFileAnywhere) {
  RawFile file;
  file.keys = {text("k") + u32(9) + u32(8) + u64(1) + text("value"), text("n") + u32(4) + u32(1)};
  const std::string bytes = file.bytes();
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(parse_error(bytes.substr(0, length)), HasSubstr("m.gguf")) << length;
  }
  EXPECT_EQ(parse_error(bytes), "");
}

TEST(GgufRefuses, CountsThatCannotBe) {
  for (const uint64_t count : {uint64_t{1000}, uint64_t{1} << 61, ~uint64_t{0} - 1}) {
    EXPECT_THAT(error_with([&](RawFile& f) { f.extra_tensors = count; }),
                HasSubstr("tensors declared"));
    EXPECT_THAT(error_with([&](RawFile& f) { f.extra_keys = count; }),
                HasSubstr("metadata keys declared"));
    EXPECT_THAT(
        error_with([&](RawFile& f) { f.keys = {text("k") + u32(9) + u32(6) + u64(count)}; }),
        HasSubstr("metadata 'k'"));
    EXPECT_THAT(
        error_with([&](RawFile& f) { f.keys = {text("k") + u32(9) + u32(8) + u64(count)}; }),
        HasSubstr("elements of an array declared"));
    EXPECT_THAT(error_with([&](RawFile& f) { f.keys = {text("k") + u32(8) + u64(count) + "abc"}; }),
                HasSubstr("bytes of a string declared"));
    EXPECT_THAT(error_with([&](RawFile& f) { f.keys = {u64(count) + "key"}; }),
                HasSubstr("metadata key 0"));
  }
}

TEST(GgufRefuses, BrokenMetadata) {
  const std::string key = text("k") + u32(4) + u32(1);
  EXPECT_THAT(error_with([&](RawFile& f) {
                f.keys = {key, key};
              }),
              HasSubstr("metadata 'k': is there twice"));
  EXPECT_THAT(error_with([](RawFile& f) { f.keys = {text("") + u32(4) + u32(1)}; }),
              HasSubstr("key is empty"));
  EXPECT_THAT(error_with([](RawFile& f) { f.keys = {text("k") + u32(13) + u64(0)}; }),
              HasSubstr("value type 13"));
  EXPECT_THAT(error_with([](RawFile& f) { f.keys = {text("k") + u32(9) + u32(99) + u64(0)}; }),
              HasSubstr("value type 99"));
  EXPECT_THAT(error_with([](RawFile& f) { f.keys = {text("k") + u32(9) + u32(9) + u64(0)}; }),
              HasSubstr("metadata 'k': an array of arrays"));
  EXPECT_THAT(error_with([](RawFile& f) { f.keys = {text("k") + u32(7) + "\2"}; }),
              HasSubstr("a bool of value 2"));
  for (const uint32_t alignment : {0U, 3U, 48U, 1U << 31}) {
    EXPECT_THAT(error_with([&](RawFile& f) {
                  f.keys = {text("general.alignment") + u32(4) + u32(alignment)};
                }),
                HasSubstr("power of two"));
  }
  EXPECT_THAT(
      error_with([](RawFile& f) { f.keys = {text("general.alignment") + u32(8) + text("32")}; }),
      HasSubstr("is no integer"));
}

TEST(GgufRefuses, BrokenTensors) {
  const auto tensor_error = [](const RawTensor& tensor) {
    return error_with([&](RawFile& f) { f.tensors = {tensor}; });
  };
  EXPECT_THAT(tensor_error({.name = ""}), HasSubstr("without a name"));
  EXPECT_THAT(tensor_error({.name = std::string(64, 'n')}), HasSubstr("a name of 64 bytes"));
  EXPECT_EQ(tensor_error({.name = std::string(63, 'n')}), "");
  EXPECT_THAT(tensor_error({.dimensions = {1, 1, 1, 1, 1}}), HasSubstr("tensor 't': 5 dimensions"));
  EXPECT_THAT(tensor_error({.dimensions = {4, 0}}), HasSubstr("a dimension of 0"));
  EXPECT_THAT(tensor_error({.dimensions = {-4, -1}}), HasSubstr("a dimension of -"));
  EXPECT_THAT(tensor_error({.dimensions = {int64_t{1} << 32, int64_t{1} << 32}}),
              HasSubstr("too large"));
  EXPECT_THAT(tensor_error({.dimensions = {int64_t{1} << 62}}), HasSubstr("too large"));
  EXPECT_THAT(tensor_error({.type = 4}), HasSubstr("tensor 't': type 4 is not known"));
  EXPECT_THAT(tensor_error({.type = 1000}), HasSubstr("type 1000 is not known"));
  EXPECT_THAT(tensor_error({.dimensions = {33}, .type = 8}), HasSubstr("blocks of 32"));
  EXPECT_THAT(tensor_error({.dimensions = {5}}), HasSubstr("20 bytes declared, 16 left"));
  EXPECT_THAT(error_with([](RawFile& f) {
                f.tensors = {{.name = "t"}, {.name = "t", .offset = 32}};
                f.data_bytes = 64;
              }),
              HasSubstr("tensor 't': is there twice"));
}

TEST(GgufRefuses, OffsetsThatAreNotTheEndOfTheTensorBefore) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{16}, uint64_t{64}, uint64_t{1} << 63}) {
    EXPECT_THAT(error_with([&](RawFile& f) {
                  f.tensors = {{.name = "a"}, {.name = "b", .offset = offset}};
                  f.data_bytes = 256;
                }),
                HasSubstr("tensor 'b': begins at byte"));
  }
}

// Whatever one byte becomes, the file is read or refused, and what is read lies inside the file.
TEST(GgufMutations, OfEveryByteOfASmallHeader) {
  RawFile file;
  file.keys = {text("k") + u32(9) + u32(8) + u64(2) + text("ab") + text("c"),
               text("general.alignment") + u32(4) + u32(32), text("b") + u32(7) + "\1"};
  file.tensors = {{.name = "a", .dimensions = {32, 3}, .type = 2},
                  {.name = "b", .dimensions = {5, 1}, .type = 1, .offset = 64}};
  file.data_bytes = 96;
  const std::string bytes = file.bytes();
  for (size_t at = 0; at < file.header().size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      try {
        const GgufHeader header = parse(changed);
        for (const GgufTensor& tensor : header.tensors) {
          ASSERT_LE(header.data_begin + tensor.offset + tensor.bytes, std::ssize(bytes));
        }
      } catch (const Error& error) {
        ASSERT_THAT(error.what(), HasSubstr("m.gguf")) << at << " " << value;
      }
    }
  }
}

TEST(GgufMutations, OfALlamaCppFilesHeader) {
  NIBBLE_NEEDS_TEST_DATA();
  const std::string bytes = read_file(test_data() / "models" / "tinystories-656k.f16.gguf");
  const auto header_bytes = static_cast<uint32_t>(parse(bytes).data_begin);
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::string changed = bytes;
    for (uint32_t i = 0; i <= random() % 4; ++i) {
      // Most of the header is text of the vocabulary: half of the changes are near its ends.
      const uint32_t range = random() % 2 == 0 ? 900 : header_bytes;
      const uint32_t from = random() % 2 == 0 ? 0 : header_bytes - range;
      changed[from + random() % range] = static_cast<char>(random());
    }
    if (random() % 8 == 0) changed.resize(random() % changed.size());
    try {
      const GgufHeader header = parse(changed);
      for (const GgufTensor& tensor : header.tensors) {
        ASSERT_LE(header.data_begin + tensor.offset + tensor.bytes, std::ssize(changed));
      }
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr("m.gguf"));
    }
  }
}

TEST(GgufWriter, LeavesNothingUnlessFinished) {
  const TemporaryFolder folder;
  const auto target = folder.path() / "m.gguf";
  const std::vector<GgufTensor> tensors = {{.name = "t", .type = gguf_type(0), .shape = {2, 2}}};
  const std::vector<float> values(4, 1.F);
  const auto bytes = std::as_bytes(std::span(values));
  {
    GgufWriter writer(target, false, {}, tensors);
    EXPECT_TRUE(std::filesystem::exists(writer.temporary_file()));
    EXPECT_THROW(writer.finish(), Error);
    EXPECT_THROW(writer.write("u", bytes), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  {
    GgufWriter writer(target, false, {}, tensors);
    writer.write("t", bytes);
    EXPECT_THROW(writer.write("t", bytes), Error);
    const int64_t size = writer.finish();
    EXPECT_EQ(size, static_cast<int64_t>(std::filesystem::file_size(target)));
  }
  EXPECT_EQ(GgufFile::open(target)->tensors().size(), 1U);
  EXPECT_THROW(GgufWriter(target, false, {}, tensors), Error);
  EXPECT_NO_THROW(GgufWriter(target, true, {}, tensors));
  EXPECT_EQ(GgufFile::open(target)->tensors().size(), 1U);  // abandoned: the old one is there
}

TEST(GgufWriter, RefusesWhatReadersRefuse) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::vector<GgufTensor>& tensors) {
    EXPECT_THROW(GgufWriter(folder.path() / "m.gguf", false, {}, tensors), Error);
  };
  const GgufTensor good = {.name = "t", .type = gguf_type("q4_0"), .shape = {2, 32}};
  GgufTensor bad = good;
  bad.shape = {2, 33};
  refused({bad});
  refused({good, good});
  bad = good;
  bad.name = std::string(64, 'n');
  refused({bad});
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace nibble
