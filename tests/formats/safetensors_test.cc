#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

fs::path hostile() { return fs::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" / "hostile"; }

// Of a header that is legal over this many bytes of data.
SafetensorsHeader parsed(const std::string& text, int64_t data_bytes) {
  return parse_safetensors_header(text, data_bytes, "x.safetensors");
}

TEST(HostileSafetensors, EachEndsInAnErrorWithFileAndTensor) {
  const Json cases = read_json(hostile() / "hostile.json");
  ASSERT_GT(cases.size(), 60U);
  for (const Json& row : cases) {
    const fs::path file = hostile() / row["file"].get<std::string>();
    const std::string message = message_of<Error>([&] { SafetensorsFile::open(file); });
    EXPECT_THAT(message, HasSubstr(file.string() + ":")) << row["story"];
    EXPECT_THAT(message, HasSubstr(row["says"].get<std::string>())) << row["story"];
    if (row["tensor"].is_string()) {
      EXPECT_THAT(message, HasSubstr("'" + row["tensor"].get<std::string>() + "'")) << message;
    }
    EXPECT_THAT(message, testing::Not(HasSubstr("\n"))) << row["story"];
    EXPECT_LT(message.size(), 300U + file.string().size()) << row["story"];
  }
}

TEST(HostileSafetensors, TheListNamesEveryFile) {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(hostile())) {
    files += entry.path().extension() == ".safetensors" ? 1 : 0;
  }
  EXPECT_EQ(files, read_json(hostile() / "hostile.json").size());
}

TEST(Safetensors, WhatIsNoFileIsRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<Error>([&] { SafetensorsFile::open(folder.path()); }),
              HasSubstr("not a regular file"));
  EXPECT_THAT(message_of<Error>([&] { SafetensorsFile::open(folder.path() / "absent"); }),
              HasSubstr("no such file"));
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreLegal) {
  const SafetensorsHeader header =
      parsed(R"({"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
             R"("none":{"dtype":"F64","shape":[3,0],"data_offsets":[4,4]},)"
             R"("nothing":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
             4);
  ASSERT_EQ(header.entries.size(), 3U);
  EXPECT_EQ(header.entries[0].info.name, "nothing");
  EXPECT_EQ(header.entries[1].info.name, "scalar");
  EXPECT_EQ(header.entries[2].info.shape, (Shape{3, 0}));
}

TEST(Safetensors, AFileOfNoTensorsIsLegal) {
  EXPECT_TRUE(parsed("{}", 0).entries.empty());
  EXPECT_EQ(parsed(R"({"__metadata__":{"format":"pt"}}   )", 0).metadata.at("format"), "pt");
}

TEST(Safetensors, EveryDtypeIsRead) {
  for (int i = 0; i <= static_cast<int>(Dtype::kU64); ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const int bytes = dtype_bits(dtype);  // of eight elements
    const SafetensorsHeader header =
        parsed(R"({"w":{"dtype":")" + std::string(dtype_name(dtype)) +
                   R"(","shape":[2,4],"data_offsets":[0,)" + std::to_string(bytes) + "]}}",
               bytes);
    EXPECT_EQ(header.entries[0].info.dtype, dtype);
  }
}

TEST(Safetensors, EntriesComeInTheOrderOfTheirBytes) {
  const SafetensorsHeader header = parsed(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},)"
                                          R"("b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
                                          4);
  EXPECT_EQ(header.entries[0].info.name, "b");
  EXPECT_EQ(header.entries[1].begin, 3);
}

TEST(Safetensors, NamesMayBeAnything) {
  const SafetensorsHeader header =
      parsed(R"({"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
             R"("模型.\u0000\"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
             0);
  EXPECT_EQ(header.entries[0].info.name, "");
  EXPECT_EQ(header.entries[1].info.name, std::string("模型.\0\"", 9));
}

TEST(Safetensors, BytesAreThoseOfTheFile) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "m.safetensors";
  write_file(file, raw_safetensors(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                   R"("b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
                                   "hello"));
  const auto opened = SafetensorsFile::open(file);
  const auto bytes = opened->bytes(*opened->find("b"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "llo");
  EXPECT_EQ(opened->find("c"), nullptr);
}

// The header that the reference writer would produce, byte for byte.
TEST(Safetensors, HeadersAreWrittenAsTheReferenceDoes) {
  SafetensorsHeader header;
  header.metadata["format"] = "pt";
  header.entries = {{{"b", Dtype::kF32, {1, 2}}, 0, 8}, {{"a", Dtype::kU8, {}}, 8, 9}};
  const std::string text =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"U8","shape":[],"data_offsets":[8,9]}})";
  const std::string bytes = safetensors_header_bytes(header);
  EXPECT_EQ(bytes.size() % 8, 0U);
  EXPECT_EQ(bytes.substr(8, text.size()), text);
  EXPECT_EQ(bytes.substr(8 + text.size()), std::string(bytes.size() - 8 - text.size(), ' '));
  EXPECT_LT(bytes.size() - 8 - text.size(), 8U);
  EXPECT_EQ(static_cast<size_t>(static_cast<unsigned char>(bytes[0])), bytes.size() - 8);
}

TEST(Safetensors, WiderTypesComeFirstThenNames) {
  const TensorInfo wide{"z", Dtype::kF32, {}};
  const TensorInfo narrow{"a", Dtype::kF16, {}};
  EXPECT_TRUE(precedes_in_file(wide, narrow));
  EXPECT_FALSE(precedes_in_file(narrow, wide));
  EXPECT_TRUE(precedes_in_file(narrow, TensorInfo{"b", Dtype::kF16, {}}));
}

// Files of four quantizers, with the parse expected of them.
TEST(GoldenLayouts, ParseExactlyAsExpected) {
  NIBBLE_NEEDS_TEST_DATA();
  for (const std::string& name : std::vector<std::string>{"awq", "bnb_nf4", "fp8", "gptq"}) {
    const fs::path folder = test_data() / "golden" / "layouts";
    const Json expected = read_json(folder / (name + ".expected.json"));
    const auto file = SafetensorsFile::open(folder / (name + ".safetensors"));
    Json got;
    got["scheme"] = name;
    got["header_size"] = file->header_bytes();
    got["metadata"] = Json(file->header().metadata);
    std::map<std::string, Json> by_name;
    for (const SafetensorsEntry& entry : file->header().entries) {
      Json& tensor = by_name[entry.info.name];
      tensor["name"] = entry.info.name;
      tensor["dtype"] = dtype_name(entry.info.dtype);
      tensor["shape"] = entry.info.shape;
      tensor["data_offsets"] = {entry.begin, entry.end};
    }
    for (const auto& [tensor, value] : by_name) got["tensors"].push_back(value);
    EXPECT_EQ(got, expected);
  }
}

constexpr const char* kValidHeader =
    R"({"__metadata__":{"format":"pt","a":"b"},)"
    R"("model.w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("model.b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
    R"("x":{"dtype":"F4","shape":[2,1],"data_offsets":[32,33]},)"
    R"("s":{"dtype":"U8","shape":[],"data_offsets":[33,34]}})";
constexpr int64_t kValidBytes = 34;

// Replaces, removes, repeats or inserts a few characters.
std::string mutate(std::string text, std::mt19937& random) {
  const std::string alphabet = "{}[]:,\"\\0123456789-.eEuFBtrn \x01\xc3\xff";
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (size_t edits = 1 + below(3); edits > 0 && text.size() > 2; --edits) {
    const size_t place = below(text.size());
    const size_t length = std::min(1 + below(12), text.size() - place);
    switch (below(4)) {
      case 0:
        text[place] = alphabet[below(alphabet.size())];
        break;
      case 1:
        text.erase(place, length);
        break;
      case 2:
        text.insert(below(text.size()), text.substr(place, length));
        break;
      default:
        text.insert(place, 1, alphabet[below(alphabet.size())]);
    }
  }
  return text;
}

TEST(SafetensorsMutations, AreReadWholeOrRefused) {
  ASSERT_EQ(parsed(kValidHeader, kValidBytes).entries.size(), 4U);
  std::mt19937 random(20240607);
  int accepted = 0;
  for (int i = 0; i < 6'000; ++i) {
    const std::string text = mutate(kValidHeader, random);
    try {
      const SafetensorsHeader header = parsed(text, kValidBytes);
      int64_t place = 0;
      for (const SafetensorsEntry& entry : header.entries) {
        ASSERT_EQ(entry.begin, place) << text;
        ASSERT_EQ(entry.end - entry.begin, byte_count(entry.info.dtype, entry.info.shape)) << text;
        place = entry.end;
      }
      ASSERT_EQ(place, kValidBytes) << text;
      ++accepted;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr("x.safetensors")) << text;
    }
  }
  EXPECT_GT(accepted, 100);  // changed names, metadata and spaces
  EXPECT_LT(accepted, 3'000);
}

TEST(SafetensorsMutations, OfWholeFilesAreReadOrRefused) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "m.safetensors";
  const std::string whole = raw_safetensors(kValidHeader, std::string(kValidBytes, 'd'));
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = whole;
    if (i % 2 == 0) bytes.resize(random() % whole.size());
    if (i % 3 == 0 && !bytes.empty()) {
      char& byte = bytes[random() % std::min<size_t>(bytes.size(), 16)];
      byte = static_cast<char>(byte ^ (1 << (random() % 8)));
    }
    if (i % 2 != 0) bytes = mutate(bytes, random);
    write_file(file, bytes);
    try {
      const auto opened = SafetensorsFile::open(file);
      for (const SafetensorsEntry& entry : opened->header().entries) {
        ASSERT_EQ(opened->bytes(entry).size(), static_cast<size_t>(entry.end - entry.begin));
      }
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr(file.string()));
    }
  }
}

}  // namespace
}  // namespace nibble
