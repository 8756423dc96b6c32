#include "calibration/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "src/model/tokenizer.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/test_data.h"

namespace nibble {

namespace {

using Strings = std::vector<std::string>;
using Ids = std::vector<int32_t>;
using testing::HasSubstr;

// One gzip member.
std::string gzip(const std::string& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string result(deflateBound(&stream, static_cast<uLong>(bytes.size())) + 64, '\0');
  std::string input = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  deflate(&stream, Z_FINISH);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

// numpy.lib.format: header padded to a multiple of 64.
std::string npy(const std::string& header, const std::string& data, char version = 1) {
  const size_t prefix = version == 1 ? 10 : 12;
  std::string padded = header;
  while ((prefix + padded.size() + 1) % 64 != 0) padded += ' ';
  padded += '\n';
  std::string bytes = "\x93NUMPY";
  bytes += version;
  bytes += '\0';
  for (size_t i = 0; i < prefix - 8; ++i) bytes += static_cast<char>(padded.size() >> (8 * i));
  return bytes + padded + data;
}

std::string npy_header(const std::string& type, const std::string& shape,
                       const std::string& fortran = "False") {
  return "{'descr': '" + type + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }";
}

class DatasetFiles : public testing::Test {
 protected:
  Dataset read(const std::string& name, const std::string& bytes,
               const DatasetOptions& options = {}) {
    write_file(folder_.path() / name, bytes);
    return read_dataset(folder_.path() / name, options);
  }

  std::string error(const std::string& name, const std::string& bytes,
                    const DatasetOptions& options = {}) {
    try {
      read(name, bytes, options);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(name));
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
};

}  // namespace

TEST_F(DatasetFiles, TextIsOneDocument) {
  for (const char* name : {"a.txt", "a.raw", "A.TXT"}) {
    EXPECT_EQ(read(name, " \n a\r\nb\n").documents, (Strings{" \n a\r\nb\n"}));
  }
}

TEST_F(DatasetFiles, JsonLinesAreADocumentALine) {
  const std::string text =
      "{\"text\": \"a\\nb\", \"id\": 1}\n\n  {\"text\": \"c\"}\r\n{\"text\":\"\"}";
  EXPECT_EQ(read("a.jsonl", text).documents, (Strings{"a\nb", "c", ""}));
}

TEST_F(DatasetFiles, AnotherKeyMayHoldTheText) {
  DatasetOptions options;
  options.text_key = "story";
  EXPECT_EQ(read("a.jsonl", R"({"story": "s", "text": "t"})", options).documents, (Strings{"s"}));
}

TEST_F(DatasetFiles, JsonIsAnArrayOrAnObjectOrLines) {
  EXPECT_EQ(read("a.json", R"( [{"text": "a"}, "b", {"text": "c"}])").documents,
            (Strings{"a", "b", "c"}));
  EXPECT_EQ(read("a.json", "{\n  \"text\": \"a\"\n}\n").documents, (Strings{"a"}));
  EXPECT_EQ(read("a.json", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").documents,
            (Strings{"a", "b"}));
}

TEST_F(DatasetFiles, EachKindOfTextMayBeZipped) {
  EXPECT_EQ(read("a.txt.gz", gzip("text")).documents, (Strings{"text"}));
  EXPECT_EQ(read("a.raw.gz", gzip("te") + gzip("xt")).documents, (Strings{"text"}));
  EXPECT_EQ(read("a.jsonl.gz", gzip("{\"text\": \"a\"}\n{\"text\": \"b\"}")).documents,
            (Strings{"a", "b"}));
  EXPECT_EQ(read("a.json.gz", gzip("[\"a\"]")).documents, (Strings{"a"}));
  const std::string large(3 << 20, 'x');
  EXPECT_EQ(read("a.txt.gz", gzip(large)).documents, (Strings{large}));
}

TEST_F(DatasetFiles, NumpyArraysOfEveryIntegerType) {
  const std::string two_bytes("\x01\x00\xFF\x7F", 4);
  EXPECT_EQ(read("a.npy", npy(npy_header("<u2", "(2,)"), two_bytes)).ids, (Ids{1, 32767}));
  EXPECT_EQ(read("a.npy", npy(npy_header("<i2", "(2,)"), two_bytes)).ids, (Ids{1, 32767}));
  EXPECT_EQ(read("a.npy", npy(npy_header(">u2", "(2,)"), two_bytes)).ids, (Ids{256, 0xFF7F}));
  EXPECT_EQ(read("a.npy", npy(npy_header("|u1", "(2, 2)"), two_bytes)).ids, (Ids{1, 0, 255, 127}));
  const std::string eight_bytes("\x02\x01\x00\x00\x00\x00\x00\x00", 8);
  EXPECT_EQ(read("a.npy", npy(npy_header("<i8", "(1,)"), eight_bytes)).ids, (Ids{258}));
  EXPECT_EQ(read("a.npy", npy(npy_header("<u8", "(1, 1)"), eight_bytes)).ids, (Ids{258}));
  EXPECT_EQ(read("a.npy", npy(npy_header("<i4", "(2,)"), eight_bytes)).ids, (Ids{258, 0}));
  EXPECT_EQ(read("a.npy", npy(npy_header("<u4", "(2,)"), eight_bytes)).ids, (Ids{258, 0}));
}

TEST_F(DatasetFiles, NumpyVersionsTwoAndThree) {
  for (const char version : {char{2}, char{3}}) {
    EXPECT_EQ(read("a.npy", npy(npy_header("|u1", "(1,)"), "\x05", version)).ids, (Ids{5}));
  }
}

TEST_F(DatasetFiles, NumpyItselfWroteTheCalibrationIds) {
  NIBBLE_NEEDS_TEST_DATA();
  const Dataset dataset = read_dataset(test_data() / "text" / "books.calib.bookworm-ids.npy", {});
  ASSERT_EQ(dataset.ids.size(), 65536u);
  // The windows are whole documents of books.calib.jsonl in a shuffled order, joined.
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  const Ids start(dataset.ids.begin(), dataset.ids.begin() + 256);
  const Dataset texts = read_dataset(test_data() / "text" / "books.calib.jsonl", {});
  const bool found =
      std::any_of(texts.documents.begin(), texts.documents.end(), [&](const std::string& document) {
        Ids ids = tokenizer.encode(document);
        ids.resize(256);
        return ids == start;
      });
  EXPECT_TRUE(found);
}

TEST_F(DatasetFiles, BinaryIdsHaveTheTypeTheyAreSaidToHave) {
  const std::string bytes("\x01\x00\x02\x00\x00\x00\x00\x00", 8);
  EXPECT_EQ(read("a.bin", bytes).ids, (Ids{1, 2, 0, 0}));
  DatasetOptions options;
  options.ids_dtype = Dtype::kI32;
  EXPECT_EQ(read("a.bin", bytes, options).ids, (Ids{131073, 0}));
  options.ids_dtype = Dtype::kU8;
  EXPECT_EQ(read("a.bin", bytes, options).ids, (Ids{1, 0, 2, 0, 0, 0, 0, 0}));
  options.ids_dtype = Dtype::kI64;
  EXPECT_EQ(read("a.bin", bytes, options).ids, (Ids{131073}));
}

TEST_F(DatasetFiles, RealFilesOfOtherProgramsAreRead) {
  NIBBLE_NEEDS_TEST_DATA();
  EXPECT_EQ(read_dataset(test_data() / "text" / "c4-sample.01.json.gz", {}).documents.size(), 10u);
  EXPECT_EQ(read_dataset(test_data() / "text" / "c4_sample.jsonl", {}).documents.size(), 1000u);
  EXPECT_EQ(read_dataset(test_data() / "text" / "tinystories.eval.jsonl", {}).documents.size(),
            300u);
}

TEST_F(DatasetFiles, UnknownKindsAreRefused) {
  for (const char* name : {"a.csv", "a", "a.gz", "a.npy.gz", "a.bin.gz", "a.parquet"}) {
    EXPECT_THAT(error(name, "x"), HasSubstr("known are .txt")) << name;
  }
  EXPECT_THROW(read_dataset(folder_.path() / "absent.txt", {}), Error);
  std::filesystem::create_directory(folder_.path() / "folder.txt");
  EXPECT_THROW(read_dataset(folder_.path() / "folder.txt", {}), Error);
}

TEST_F(DatasetFiles, EmptyOnesAreRefused) {
  EXPECT_THAT(error("a.txt", ""), HasSubstr("has no text"));
  EXPECT_THAT(error("a.jsonl", "\n\n"), HasSubstr("has no text"));
  EXPECT_THAT(error("a.jsonl", R"({"text": ""})"), HasSubstr("has no text"));
  EXPECT_THAT(error("a.json", "[]"), HasSubstr("has no text"));
  EXPECT_THAT(error("a.json", ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("a.bin", ""), HasSubstr("has no ids"));
  EXPECT_THAT(error("a.npy", ""), HasSubstr("does not start as a .npy"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(0,)"), "")), HasSubstr("has no ids"));
  EXPECT_THAT(error("a.txt.gz", ""), HasSubstr("is empty"));
}

TEST_F(DatasetFiles, TextThatIsNotUtf8IsRefused) {
  EXPECT_THAT(error("a.txt", "abc\xE9"), HasSubstr("byte 3 is not valid UTF-8"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"\xE9\"}"), HasSubstr("line 1"));
}

TEST_F(DatasetFiles, BrokenJsonNamesTheLine) {
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"a\"}\n{\"text\": "),
              HasSubstr("line 2: not valid JSON"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"a\"}\n[1]"), HasSubstr("line 2: expected an object"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"a\"} {}"), HasSubstr("line 1"));
  EXPECT_THAT(error("a.json", "[{\"text\": \"a\"}, 7]"),
              HasSubstr("element 1: expected an object"));
  EXPECT_THAT(error("a.json", "7"), HasSubstr("expected an object"));
  EXPECT_THAT(error("a.json", "[\"a\""), HasSubstr("not valid JSON"));
}

TEST_F(DatasetFiles, DeepJsonIsRefused) {
  const std::string deep = std::string(1000000, '[') + std::string(1000000, ']');
  EXPECT_THAT(error("a.json", deep), HasSubstr("nested deeper"));
  EXPECT_THAT(error("a.jsonl", "{\"text\": " + deep + "}"), HasSubstr("nested deeper"));
}

TEST_F(DatasetFiles, AKeyThatIsMissingOrNoTextIsNamed) {
  EXPECT_THAT(error("a.jsonl", "{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 2}"),
              HasSubstr("line 2: key 'text' is missing, found 'body', 'id'"));
  EXPECT_THAT(error("a.jsonl", R"({"text": 7})"), HasSubstr("line 1: key 'text' is no text but"));
  EXPECT_THAT(error("a.jsonl", R"({"text": null})"), HasSubstr("is no text but null"));
  EXPECT_THAT(error("a.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})"),
              HasSubstr("chat messages are not supported yet"));
}

TEST_F(DatasetFiles, DamagedGzipIsRefused) {
  const std::string whole = gzip("some text that is long enough to be cut somewhere in the middle");
  for (size_t size = 1; size < whole.size(); ++size) {
    EXPECT_THAT(error("a.txt.gz", whole.substr(0, size)), HasSubstr("the gzip ends early")) << size;
  }
  EXPECT_THAT(error("a.txt.gz", "plain text"), HasSubstr("not a sound gzip file"));
  EXPECT_THAT(error("a.txt.gz", whole + "rest"), HasSubstr("a.txt.gz"));
  std::string damaged = whole;
  damaged[damaged.size() - 6] = static_cast<char>(damaged[damaged.size() - 6] ^ 1);  // the CRC
  EXPECT_THAT(error("a.txt.gz", damaged), HasSubstr("not a sound gzip file"));
}

TEST_F(DatasetFiles, BrokenNumpyHeadersAreRefused) {
  const std::string four(4, '\0');
  const std::string sound = npy(npy_header("<i4", "(1,)"), four);
  for (const size_t size : {size_t{7}, size_t{9}, size_t{11}, size_t{60}}) {
    EXPECT_NE(error("a.npy", sound.substr(0, size)), "no error") << size;
  }
  EXPECT_THAT(error("a.npy", sound.substr(0, sound.size() - 1)), HasSubstr("does not fit"));
  EXPECT_THAT(error("a.npy", sound + "x"), HasSubstr("does not fit the 5 bytes"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(1,)"), four, 4)), HasSubstr("version 4"));
  EXPECT_THAT(error("a.npy", npy("{'shape': (1,), 'fortran_order': False}", four)),
              HasSubstr("no 'descr'"));
  EXPECT_THAT(error("a.npy", npy("{'descr': '<i4', 'fortran_order': False}", four)),
              HasSubstr("no 'shape'"));
  EXPECT_THAT(error("a.npy", npy("{'descr': '<i4', 'shape': (1,)}", four)),
              HasSubstr("no 'fortran_order'"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(1,)", "Maybe"), four)), HasSubstr("neither"));
}

TEST_F(DatasetFiles, NumpyArraysOfAnotherKindAreRefused) {
  const std::string four(4, '\0');
  for (const char* type : {"<f4", "<i3", "|b1", "<U1", "|O", ""}) {
    EXPECT_THAT(error("a.npy", npy(npy_header(type, "(1,)"), four)),
                HasSubstr("expected integers"));
  }
  EXPECT_THAT(
      error("a.npy", npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", four)),
      HasSubstr("expected integers"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "()"), four)), HasSubstr("0 dimensions"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(1, 1, 1)"), four)), HasSubstr("3 dimensions"));
  EXPECT_THAT(error("a.npy", npy(npy_header("|u1", "(2, 2)", "True"), four)),
              HasSubstr("fortran_order"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(x,)"), four)), HasSubstr("broken shape"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(-1,)"), four)), HasSubstr("broken shape"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(99999999999999999999,)"), four)),
              HasSubstr("broken shape"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i4", "(1099511627776, 1099511627776)"), four)),
              HasSubstr("does not fit"));
}

TEST_F(DatasetFiles, IdsThatDoNotFitAreNamed) {
  const std::string eight("\x00\x00\x00\x00\x01\x00\x00\x00", 8);  // 2^32
  EXPECT_THAT(error("a.npy", npy(npy_header("<i8", "(1,)"), eight)),
              HasSubstr("id 4294967296 at position 0"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<i2", "(2,)"), std::string("\x01\x00\xFE\xFF", 4))),
              HasSubstr("id -2 at position 1"));
  EXPECT_THAT(error("a.npy", npy(npy_header("<u8", "(1,)"), std::string(8, '\xFF'))),
              HasSubstr("id 18446744073709551615"));
  EXPECT_THAT(error("a.bin", "abc"), HasSubstr("3 bytes are no whole number of U16 ids"));
  DatasetOptions options;
  options.ids_dtype = Dtype::kF16;
  EXPECT_THAT(error("a.bin", "ab", options), HasSubstr("ids of type F16"));
}

TEST(TokenStream, DocumentsAreJoinedByABlankLineAndTokenizedOnce) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  Dataset dataset;
  dataset.documents = {"One day", "", "he left."};
  EXPECT_EQ(token_stream(dataset, &tokenizer, 4096), tokenizer.encode("One day\n\n\n\nhe left."));
}

TEST(TokenStream, BosComesOnceAndFirst) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(test_data() / "tokenizers" / "llama2");
  Dataset dataset;
  dataset.documents = {"Hello", "Hello"};
  EXPECT_EQ(token_stream(dataset, &tokenizer, 32000), (Ids{1, 15043, 13, 13, 10994}));
}

TEST(TokenStream, IdsStayAsTheyAre) {
  Dataset dataset;
  dataset.ids = {3, 0, 4095};
  EXPECT_EQ(token_stream(dataset, nullptr, 4096), dataset.ids);
}

TEST(TokenStream, AnIdBeyondTheVocabularyIsNamedWithItsPosition) {
  Dataset dataset;
  dataset.file = "some.npy";
  dataset.ids = {3, 4096};
  try {
    token_stream(dataset, nullptr, 4096);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("some.npy: id 4096 at position 1 is outside"));
  }
  dataset.ids = {-1};
  EXPECT_THROW(token_stream(dataset, nullptr, 4096), Error);
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  dataset.ids.clear();
  dataset.documents = {"The vocabulary of this model is too small."};
  EXPECT_THROW(token_stream(dataset, &tokenizer, 100), Error);
}

TEST(TokenStream, TextNeedsATokenizer) {
  Dataset dataset;
  dataset.documents = {"a"};
  EXPECT_THROW(token_stream(dataset, nullptr, 4096), Error);
}

TEST(DatasetOptions, ThatSayNothingAboutAFileAreErrors) {
  DatasetOptions key;
  key.text_key = "body";
  DatasetOptions type;
  type.ids_dtype = Dtype::kI32;
  EXPECT_NO_THROW(check_options("x.jsonl.gz", key));
  EXPECT_NO_THROW(check_options("x.bin", type));
  for (const char* file : {"x.txt", "x.npy", "x.bin", "x.raw.gz"}) {
    EXPECT_THROW(check_options(file, key), Error) << file;
  }
  for (const char* file : {"x.npy", "x.json", "x.txt"}) {
    EXPECT_THROW(check_options(file, type), Error) << file;
  }
}

}  // namespace nibble
