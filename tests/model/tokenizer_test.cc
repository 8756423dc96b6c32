// Real tokenizers: llama.cpp's vectors, ids of whole texts by Hugging Face, round trips, speed.
#include "src/model/tokenizer.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "formats/gguf/metadata.h"
#include "formats/gguf/writer.h"
#include "formats/json.h"
#include "src/model/tokenizer_gguf.h"
#include "src/tensor/error.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

// A tokenizer's folder under the test data, with only some of its files.
class PartOfFolder {
 public:
  PartOfFolder(const std::string& name, const std::vector<std::string>& files) {
    for (const std::string& file : files) {
      fs::copy_file(test_data() / name / file, folder_.path() / file);
    }
  }
  Tokenizer open() const { return Tokenizer::open(folder_.path()); }
  const fs::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

// Little-endian int32, as the machine has them.
uint32_t crc_of_ids(const std::vector<int32_t>& ids) {
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(ids.data()),
                                     static_cast<uInt>(ids.size() * sizeof(int32_t))));
}

std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(separator, begin)) != std::string::npos;) {
    parts.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

// The vectors are made without BOS. Both files end with a separator.
void expect_vectors(const Tokenizer& tokenizer, const std::string& name) {
  const fs::path folder = test_data() / "tokenizers" / "vectors";
  const auto texts = split(read_file(folder / (name + ".inp")), "\n__ggml_vocab_test__\n");
  const auto expected = split(read_file(folder / (name + ".out")), "\n");
  ASSERT_EQ(texts.size(), expected.size());
  ASSERT_EQ(texts.size(), 47u);
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> ids;
    std::istringstream numbers(expected[i]);
    for (int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer.encode(texts[i], false), ids) << name << ", text " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(texts[i], false)), texts[i]) << name << " " << i;
  }
}

const std::string& dataset_text(const std::string& name) {
  static std::map<std::string, std::string> read;
  std::string& text = read[name];
  if (!text.empty()) return text;
  const std::string bytes = read_file(test_data() / "text" / name);
  if (!name.ends_with(".jsonl")) return text = bytes;
  for (const std::string& line : split(bytes, "\n")) {
    if (line.empty()) continue;
    if (!text.empty()) text += "\n\n";
    text += parse_json(line, name)["text"].get<std::string>();
  }
  return text;
}

const Json& golden() {
  static const Json results = golden_results("tokenizers");
  return results;
}

// Of this program's single thread, whatever else the machine does.
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Returns the seconds that encoding took.
double expect_whole_text(const Tokenizer& tokenizer, const std::string& name,
                         const std::string& file) {
  const Json& expected = golden().at("real").at(name).at(file);
  const std::string& text = dataset_text(file);
  const double start = processor_seconds();
  const auto ids = tokenizer.encode(text, false);
  const double seconds = processor_seconds() - start;
  EXPECT_EQ(ids.size(), expected[0].get<size_t>()) << name << " " << file;
  EXPECT_EQ(crc_of_ids(ids), expected[1].get<uint32_t>()) << name << " " << file;
  return seconds;
}

void expect_all_texts(const Tokenizer& tokenizer, const std::string& name) {
  for (const char* file : {"books.eval.txt", "wikitext2.test.raw", "c4_sample.jsonl"}) {
    expect_whole_text(tokenizer, name, file);
  }
  const Json& texts = golden().at("texts");
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    const Json& expected = golden().at("real").at(name).at("hard")[i];
    EXPECT_EQ(crc_of_ids(tokenizer.encode(text, false)), expected) << name << ": " << text;
  }
}

}  // namespace

TEST(TokenizerVectors, Gpt2FromTokenizerJson) {
  NIBBLE_NEEDS_TEST_DATA();
  const PartOfFolder folder("tokenizers/gpt2", {"tokenizer.json", "tokenizer_config.json"});
  expect_vectors(folder.open(), "gpt-2");
}

TEST(TokenizerVectors, Gpt2FromVocabAndMerges) {
  NIBBLE_NEEDS_TEST_DATA();
  const PartOfFolder folder("tokenizers/gpt2",
                            {"vocab.json", "merges.txt", "tokenizer_config.json"});
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.description(), "vocab.json and merges.txt (GPT-2)");
  EXPECT_EQ(tokenizer.encode("a<|endoftext|>"), (std::vector<int32_t>{64, 50256}));
  EXPECT_FALSE(tokenizer.adds_bos());
  expect_vectors(tokenizer, "gpt-2");
}

TEST(TokenizerVectors, Qwen2FromVocabAndMerges) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(test_data() / "tokenizers" / "qwen2");
  EXPECT_EQ(tokenizer.vocabulary_size(), 151665);
  EXPECT_FALSE(tokenizer.bos());
  expect_vectors(tokenizer, "qwen2");
}

TEST(TokenizerVectors, Llama2FromTokenizerJson) {
  NIBBLE_NEEDS_TEST_DATA();
  const PartOfFolder folder("tokenizers/llama2", {"tokenizer.json", "tokenizer_config.json"});
  const Tokenizer tokenizer = folder.open();
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.encode("Hello"), (std::vector<int32_t>{1, 15043}));
  EXPECT_EQ(tokenizer.encode(""), (std::vector<int32_t>{1}));
  expect_vectors(tokenizer, "llama-spm");
}

TEST(TokenizerVectors, Llama2FromSentencePiece) {
  NIBBLE_NEEDS_TEST_DATA();
  const PartOfFolder folder("tokenizers/llama2", {"tokenizer.model", "tokenizer_config.json"});
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.description(), "tokenizer.model (SentencePiece)");
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  // transformers' LlamaTokenizer: a prefix space again behind an added token.
  EXPECT_EQ(tokenizer.encode("Hello</s>Hello"), (std::vector<int32_t>{1, 15043, 2, 15043}));
  expect_vectors(tokenizer, "llama-spm");
}

// transformers 5.23: LlamaTokenizer(legacy=False) from tokenizer.json.
TEST(TokenizerVectors, Llama2WithoutLegacyHasOnePrefixSpace) {
  NIBBLE_NEEDS_TEST_DATA();
  for (const char* file : {"tokenizer.model", "tokenizer.json"}) {
    const TemporaryFolder folder;
    fs::copy_file(test_data() / "tokenizers" / "llama2" / file, folder.path() / file);
    write_file(folder.path() / "tokenizer_config.json",
               R"({"tokenizer_class": "LlamaTokenizerFast", "legacy": false})");
    const Tokenizer tokenizer = Tokenizer::open(folder.path());
    using Ids = std::vector<int32_t>;
    EXPECT_EQ(tokenizer.encode("Hello</s>Hello"), (Ids{1, 15043, 2, 10994})) << file;
    EXPECT_EQ(tokenizer.encode(" Hello"), (Ids{1, 15043})) << file;
    EXPECT_EQ(tokenizer.encode("  Hello"), (Ids{1, 29871, 15043})) << file;
    EXPECT_EQ(tokenizer.encode("<s> Hello"), (Ids{1, 1, 15043})) << file;
    EXPECT_EQ(tokenizer.encode("a <unk>b"), (Ids{1, 263, 29871, 0, 29890})) << file;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("Hello, y\u0301\u4e16")), "Hello, y\u0301\u4e16");
  }
}

TEST(TokenizerVectors, Llama3FromTiktokenRanks) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(test_data() / "tokenizers" / "llama3");
  EXPECT_EQ(tokenizer.description(), "tokenizer.model (tiktoken ranks)");
  EXPECT_EQ(tokenizer.vocabulary_size(), 128256);
  // meta-llama/llama-models, llama3/tokenizer.py.
  EXPECT_EQ(tokenizer.encode("<|start_header_id|><|end_header_id|><|eot_id|>"),
            (std::vector<int32_t>{128000, 128006, 128007, 128009}));
  EXPECT_EQ(tokenizer.encode("<|reserved_special_token_0|><|reserved_special_token_4|>"
                             "<|reserved_special_token_5|><|reserved_special_token_250|>",
                             false),
            (std::vector<int32_t>{128002, 128008, 128010, 128255}));
  expect_vectors(tokenizer, "llama-bpe");
}

// A folder's tokenizer written into the metadata of a GGUF file and read from there.
Tokenizer through_gguf(const PartOfFolder& from) {
  const Tokenizer original = from.open();
  GgufMetadata metadata("m.gguf");
  add_gguf_tokenizer(from.path(), original.vocabulary_size(), metadata);
  const TemporaryFolder folder;
  GgufWriter(folder.path() / "m.gguf", false, metadata, {}).finish();
  return Tokenizer::open(folder.path() / "m.gguf");
}

TEST(TokenizerGguf, HasTheIdsOfTheFolder) {
  NIBBLE_NEEDS_TEST_DATA();
  const std::vector<std::string> bpe = {"vocab.json", "merges.txt", "tokenizer_config.json"};
  const auto expect = [](const PartOfFolder& folder, const std::string& vectors) {
    const Tokenizer tokenizer = through_gguf(folder);
    expect_vectors(tokenizer, vectors);
    const Tokenizer original = folder.open();
    EXPECT_EQ(tokenizer.bos(), original.bos()) << vectors;
    EXPECT_EQ(tokenizer.eos(), original.eos()) << vectors;
    EXPECT_EQ(tokenizer.adds_bos(), original.adds_bos()) << vectors;
    const std::string text = dataset_text("books.eval.txt").substr(0, 100000);
    EXPECT_EQ(tokenizer.encode(text), original.encode(text)) << vectors;
  };
  expect(PartOfFolder("tokenizers/gpt2", {"tokenizer.json", "tokenizer_config.json"}), "gpt-2");
  expect(PartOfFolder("tokenizers/gpt2", bpe), "gpt-2");
  expect(PartOfFolder("tokenizers/qwen2", bpe), "qwen2");
  expect(PartOfFolder("tokenizers/llama2", {"tokenizer.json", "tokenizer_config.json"}),
         "llama-spm");
  expect(PartOfFolder("tokenizers/llama2", {"tokenizer.model", "tokenizer_config.json"}),
         "llama-spm");
}

TEST(TokenizerTexts, BookwormHasTheIdsOfHuggingFace) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  EXPECT_EQ(tokenizer.encode(dataset_text("books.eval.txt")).size(), 351305u);
  expect_all_texts(tokenizer, "models/bookworm-5m");
}

TEST(TokenizerTexts, RealTokenizersHaveTheIdsOfHuggingFace) {
  NIBBLE_NEEDS_TEST_DATA();
  for (const char* name : {"models/tinystories-656k", "tokenizers/gpt2", "tokenizers/llama2",
                           "tokenizers/minimind", "tokenizers/qwen2", "tokenizers/llama3"}) {
    expect_all_texts(Tokenizer::open(test_data() / name), name);
  }
}

TEST(TokenizerTexts, SentencePieceHasTheIdsOfTokenizerJson) {
  NIBBLE_NEEDS_TEST_DATA();
  const PartOfFolder folder("tokenizers/llama2", {"tokenizer.model", "tokenizer_config.json"});
  const Tokenizer tokenizer = folder.open();
  for (const char* file : {"books.eval.txt", "wikitext2.test.raw", "c4_sample.jsonl"}) {
    expect_whole_text(tokenizer, "tokenizers/llama2", file);
  }
}

TEST(TokenizerTexts, EncodeAndDecodeIsARoundTrip) {
  NIBBLE_NEEDS_TEST_DATA();
  const std::string& text = dataset_text("wikitext2.test.raw");
  for (const char* name : {"models/bookworm-5m", "tokenizers/gpt2", "tokenizers/llama2",
                           "tokenizers/minimind", "tokenizers/llama3"}) {
    const Tokenizer tokenizer = Tokenizer::open(test_data() / name);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << name;
  }
}

// Both take about 0.06 s. The limit is the promise; with sanitizers it only has to find what is
// quadratic, which takes hours.
TEST(TokenizerSpeed, AMegabyteTakesLessThanASecond) {
  NIBBLE_NEEDS_TEST_DATA();
#ifdef __SANITIZE_ADDRESS__
  constexpr double kLimit = 20;
#else
  constexpr double kLimit = 1;
#endif
  const double books = expect_whole_text(Tokenizer::open(own_test_data() / "bookworm-5m"),
                                         "models/bookworm-5m", "books.eval.txt");
  const double wiki = expect_whole_text(Tokenizer::open(test_data() / "tokenizers" / "llama2"),
                                        "tokenizers/llama2", "wikitext2.test.raw");
  std::printf("bookworm-5m, books.eval.txt (1.21 MB): %.3f s\n", books);
  std::printf("llama2, wikitext2.test.raw (1.29 MB in one word): %.3f s\n", wiki);
  EXPECT_LT(books, 1.2 * kLimit);
  EXPECT_LT(wiki, 1.3 * kLimit);
}

// No place to cut, no cache: the merging itself must not be quadratic.
TEST(TokenizerSpeed, AMegabyteOfOneLetterTakesLessThanASecond) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  const std::string text(1 << 20, 'e');
  const double start = processor_seconds();
  const auto ids = tokenizer.encode(text);
  const double seconds = processor_seconds() - start;
  EXPECT_EQ(tokenizer.decode(ids), text);
#ifdef __SANITIZE_ADDRESS__
  EXPECT_LT(seconds, 20);
#else
  EXPECT_LT(seconds, 1);
#endif
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  EXPECT_THROW(tokenizer.encode("ab\xFF"), Error);
  EXPECT_THROW(tokenizer.encode("\xED\xA0\x80"), Error);  // a surrogate
}

TEST(Tokenizer, DecodesBrokenCharactersAsReplacements) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  auto ids = tokenizer.encode("\xF0\x9F\xA6\x99");
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  EXPECT_EQ(tokenizer.decode(ids), "\uFFFD");
}

TEST(Tokenizer, LeavesOutIdsWithoutAToken) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  const std::vector<int32_t> ids{-1, 2, 1000000, 4096};
  EXPECT_EQ(tokenizer.decode(ids), "!");
}

TEST(Tokenizer, LeavesOutSpecialTokensUnlessAsked) {
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  const auto ids = tokenizer.encode("<|endoftext|>");
  EXPECT_EQ(ids, (std::vector<int32_t>{0}));
  EXPECT_EQ(tokenizer.decode(ids), "");
  EXPECT_EQ(tokenizer.decode(ids, false), "<|endoftext|>");
}

}  // namespace nibble
