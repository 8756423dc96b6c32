// Every way a tokenizer's files can be broken or ask for what is not implemented, and the rules of
// tokenizer_config.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/model/tokenizer.h"
#include "src/tensor/error.h"
#include "tests/test_data.h"

namespace nibble {

namespace {

using Ids = std::vector<int32_t>;

constexpr const char* kSmall = R"({
  "added_tokens": [{"id": 3, "content": "<s>", "special": true, "normalized": false}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
})";

// A folder with the given files.
class Folder {
 public:
  Folder& with(const std::string& name, const std::string& bytes) {
    write_file(folder_->path() / name, bytes);
    return *this;
  }
  // patch: RFC 7396; null removes a key.
  Folder& with_small(const std::string& patch = "{}") {
    Json json = Json::parse(kSmall);
    json.merge_patch(Json::parse(patch));
    return with("tokenizer.json", json.dump());
  }
  Tokenizer open() const { return Tokenizer::open(folder_->path()); }
  std::string error() const {
    try {
      open();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

 private:
  std::shared_ptr<TemporaryFolder> folder_ = std::make_shared<TemporaryFolder>();
};

struct Row {
  const char* patch;
  const char* place;    // file and key
  const char* problem;  // a piece of it
};

}  // namespace

TEST(TokenizerJsonErrors, TheFileTheyStartFromIsSound) {
  const Tokenizer tokenizer = Folder().with_small().open();
  EXPECT_EQ(tokenizer.encode("abba<s>"), (Ids{2, 1, 0, 3}));
  EXPECT_EQ(tokenizer.vocabulary_size(), 4);
}

TEST(TokenizerJsonErrors, NameFileAndKey) {
  const std::vector<Row> rows{
      {R"({"model": null})", "tokenizer.json", "key 'model' is missing"},
      {R"({"model": 7})", "tokenizer.json: model", "expected an object"},
      {R"({"model": {"type": "WordPiece"}})", "model.type", "'WordPiece' is not implemented"},
      {R"({"model": {"type": "Unigram"}})", "model.type", "'Unigram' is not implemented"},
      {R"({"model": {"type": 1}})", "model.type", "expected a string"},
      {R"({"model": {"vocab": null}})", "tokenizer.json: model", "key 'vocab' is missing"},
      {R"({"model": {"vocab": ["a"]}})", "model.vocab", "expected an object"},
      {R"({"model": {"vocab": {"a": null, "b": null, "ab": null}}})", "model.vocab", "empty"},
      {R"({"model": {"vocab": {"c": "x"}}})", "model.vocab", "token 'c' is not an integer"},
      {R"({"model": {"vocab": {"c": 1.5}}})", "model.vocab", "token 'c' is not an integer"},
      {R"({"model": {"vocab": {"c": -1}}})", "model.vocab", "token 'c' has id -1"},
      {R"({"model": {"vocab": {"c": 2147483647}}})", "model.vocab", "token 'c' has id 2147483647"},
      {R"({"model": {"vocab": {"c": 18446744073709551615}}})", "model.vocab", "token 'c' has id"},
      {R"({"model": {"vocab": {"c": 1}}})", "model.vocab", "id 1 has two tokens, 'b' and 'c'"},
      {R"({"model": {"merges": null}})", "tokenizer.json: model", "key 'merges' is missing"},
      {R"({"model": {"merges": {}}})", "model.merges", "expected an array"},
      {R"({"model": {"merges": ["ab"]}})", "model.merges[0]", "expected two tokens"},
      {R"({"model": {"merges": ["a b c"]}})", "model.merges[0]", "expected two tokens"},
      {R"({"model": {"merges": [["a", "b"], ["a"]]}})", "model.merges[1]", "pair of strings"},
      {R"({"model": {"merges": [["a", 1]]}})", "model.merges[0]", "pair of strings"},
      {R"({"model": {"merges": ["a x"]}})", "model.merges[0]", "token 'x', which is not in"},
      {R"({"model": {"merges": ["b a"]}})", "model.merges[0]", "token 'ba', which is not in"},
      {R"({"model": {"unk_token": "<unk>"}})", "model.unk_token", "not in the vocabulary"},
      {R"({"model": {"byte_fallback": "yes"}})", "model.byte_fallback", "expected true or false"},
      {R"({"model": {"dropout": 0.1}})", "model.dropout", "random"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "model.end_of_word_suffix", "implemented"},
      {R"({"model": {"continuing_subword_prefix": "##"}})", "continuing_subword_prefix", "not imp"},
      {R"({"normalizer": {"type": "Nmt"}})", "normalizer.type", "'Nmt' is not implemented"},
      {R"({"normalizer": {"type": "Precompiled"}})", "normalizer.type", "'Precompiled' is not"},
      {R"({"normalizer": {}})", "normalizer", "key 'type' is missing"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "?"}]}})",
       "normalizer.normalizers[1].type", "normalizer '?' is not implemented"},
      {R"({"normalizer": {"type": "Replace", "pattern": {}, "content": ""}})", "normalizer.pattern",
       "key 'String' is missing"},
      {R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", "pre_tokenizer.type", "not implement"},
      {R"({"pre_tokenizer": {"type": "Sequence",
           "pretokenizers": [{"type": "ByteLevel"}, {"type": "ByteLevel"}]}})",
       "pre_tokenizer.pretokenizers[1]", "ByteLevel twice"},
      {R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}})",
       "pre_tokenizer.replacement", "not one character"},
      {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "("}}})",
       "pre_tokenizer.pattern.Regex", "does not compile"},
      {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "\\h"}}})",
       "pre_tokenizer.pattern.Regex", "has \\h"},
      {R"({"pre_tokenizer": {"type": "Split", "behavior": "Torn", "pattern": {"String": "a"}}})",
       "pre_tokenizer.behavior", "'Torn' is not known"},
      {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"String": ""}}})",
       "pre_tokenizer.pattern.String", "empty"},
      {R"({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "second"}})",
       "pre_tokenizer.prepend_scheme", "'second' is not known"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder.type", "'WordPiece' is not implemented"},
      {R"({"decoder": {"type": "Strip", "content": " ", "start": "x", "stop": 0}})",
       "decoder.start", "expected an integer"},
      {R"({"post_processor": {"type": "BertProcessing"}})", "post_processor.type", "not implement"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single": []}})",
       "post_processor.single", "the text does not come"},
      {R"({"post_processor": {"type": "TemplateProcessing", "special_tokens": {},
           "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})",
       "post_processor.special_tokens", "key '<s>' is missing"},
      {R"({"post_processor": {"type": "TemplateProcessing", "special_tokens": {"x": {"ids": [9]}},
           "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]}})",
       "post_processor.special_tokens.x.ids[0]", "id 9 is no token"},
      {R"({"added_tokens": 1})", "added_tokens", "expected an array"},
      {R"({"added_tokens": [{"content": "<s>"}]})", "added_tokens[0]", "key 'id' is missing"},
      {R"({"added_tokens": [{"id": 3}]})", "added_tokens[0]", "key 'content' is missing"},
      {R"({"added_tokens": [{"id": 3, "content": ""}]})", "added_tokens[0]", "is empty"},
      {R"({"added_tokens": [{"id": 1, "content": "<s>"}]})", "added_tokens[0]", "id 1 has two"},
      {R"({"added_tokens": [{"id": 9, "content": "a"}]})", "added_tokens[0]", "'a' has two ids"},
      {R"({"added_tokens": [{"id": -3, "content": "<s>"}]})", "added_tokens[0]", "has id -3"},
  };
  for (const Row& row : rows) {
    const std::string error = Folder().with_small(row.patch).error();
    EXPECT_THAT(error, testing::HasSubstr("tokenizer.json")) << row.patch;
    EXPECT_THAT(error, testing::HasSubstr(row.place)) << row.patch;
    EXPECT_THAT(error, testing::HasSubstr(row.problem)) << row.patch;
  }
}

TEST(TokenizerJsonErrors, ANormalizerThatDoublesATextAgainAndAgainIsRefused) {
  std::string steps;
  for (int i = 0; i < 60; ++i) {
    steps += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},)";
  }
  steps.pop_back();
  const Tokenizer tokenizer =
      Folder()
          .with_small(R"({"normalizer": {"type": "Sequence", "normalizers": [)" + steps + "]}}")
          .open();
  try {
    tokenizer.encode("a");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("tokenizer.json: normalizer: makes a text more"));
  }
}

TEST(TokenizerJsonErrors, DeepNestingIsRefused) {
  std::string open;
  std::string close;
  for (int i = 0; i < 100000; ++i) {
    open += R"({"type": "Sequence", "normalizers": [)";
    close += "]}";
  }
  const std::string error =
      Folder().with("tokenizer.json", R"({"normalizer": )" + open + close + "}").error();
  EXPECT_THAT(error, testing::HasSubstr("nested deeper"));
}

TEST(TokenizerJsonErrors, ATruncatedFileIsRefusedAtAnyLength) {
  const std::string whole = kSmall;
  for (size_t size = 0; size + 1 < whole.size(); size += 7) {
    EXPECT_NE(Folder().with("tokenizer.json", whole.substr(0, size)).error(), "no error") << size;
  }
}

TEST(TokenizerFiles, AFolderWithoutTokenizerSaysWhatItLooksFor) {
  EXPECT_THAT(Folder().error(), testing::HasSubstr("neither tokenizer.json, nor vocab.json"));
}

TEST(TokenizerFiles, VocabAndMergesNeedAKnownFamily) {
  const auto folder = [] {
    Folder result;
    result.with("vocab.json", R"({"a": 0, "b": 1, "ab": 2})")
        .with("merges.txt", "#version: 0.2\na b\n");
    return result;
  };
  EXPECT_THAT(folder().error(), testing::HasSubstr("tokenizer_class is missing"));
  EXPECT_THAT(
      folder().with("tokenizer_config.json", R"({"tokenizer_class": "BartTokenizer"})").error(),
      testing::HasSubstr("tokenizer_class 'BartTokenizer'"));
  const Tokenizer tokenizer = folder().with("config.json", R"({"model_type": "gpt2"})").open();
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{2}));
}

TEST(TokenizerFiles, BrokenVocabAndMergesAreRefused) {
  const auto error = [](const char* vocab, const char* merges) {
    return Folder()
        .with("vocab.json", vocab)
        .with("merges.txt", merges)
        .with("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})")
        .error();
  };
  EXPECT_THAT(error("{}", ""), testing::HasSubstr("vocab.json: the vocabulary is empty"));
  EXPECT_THAT(error("[]", ""), testing::HasSubstr("vocab.json: expected an object"));
  EXPECT_THAT(error(R"({"a": 0, "a": 1})", ""), testing::HasSubstr("'a' appears twice"));
  EXPECT_THAT(error(R"({"a": 0})", "a\n"), testing::HasSubstr("merges.txt: line 1"));
  EXPECT_THAT(error(R"({"a": 0})", "#version: 0.2\na c\n"), testing::HasSubstr("token 'c'"));
}

TEST(TokenizerFiles, ABrokenTokenizerModelIsRefused) {
  EXPECT_THAT(Folder().with("tokenizer.model", "").error(),
              testing::HasSubstr("neither a Sentence"));
  EXPECT_THAT(Folder().with("tokenizer.model", std::string(1000, '\xFE')).error(),
              testing::HasSubstr("neither a SentencePiece model nor"));
  EXPECT_THAT(Folder().with("tokenizer.model", "IQ== 0\nIg= 1\n").error(),
              testing::HasSubstr("tokenizer.model: line 2"));
  EXPECT_THAT(Folder().with("tokenizer.model", "IQ== 0\nIg== 0\n").error(),
              testing::HasSubstr("line 2: id 0 has two tokens"));
  EXPECT_THAT(Folder().with("tokenizer.model", "IQ== 0\nIg== 1\n").error(),
              testing::HasSubstr("2 ranks; Llama 3's has 128000"));
}

TEST(TokenizerFiles, ADamagedSentencePieceModelEndsInAnErrorOrWorks) {
  NIBBLE_NEEDS_TEST_DATA();
  const std::string whole = read_file(test_data() / "tokenizers" / "llama2" / "tokenizer.model");
  for (const size_t size : {size_t{1}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    EXPECT_THAT(Folder().with("tokenizer.model", whole.substr(0, size)).error(),
                testing::HasSubstr("is the file complete?"));
  }
  const std::string other_class = R"({"tokenizer_class": "T5Tokenizer"})";
  EXPECT_THAT(
      Folder().with("tokenizer.model", whole).with("tokenizer_config.json", other_class).error(),
      testing::HasSubstr("tokenizer_class 'T5Tokenizer'"));
}

TEST(TokenizerConfig, NamesBosAndEos) {
  const std::string config = R"({"bos_token": {"content": "<s>"}, "eos_token": "b"})";
  const Tokenizer tokenizer = Folder().with_small().with("tokenizer_config.json", config).open();
  EXPECT_EQ(tokenizer.bos(), 3);
  EXPECT_EQ(tokenizer.eos(), 1);
  EXPECT_FALSE(tokenizer.adds_bos());
  const Tokenizer mapped =
      Folder().with_small().with("special_tokens_map.json", R"({"bos_token": "<s>"})").open();
  EXPECT_EQ(mapped.bos(), 3);
}

TEST(TokenizerConfig, DecidesOnBosOnlyForLlamaTokenizers) {
  const std::string with_template = R"({"post_processor": {"type": "TemplateProcessing",
      "special_tokens": {"<s>": {"ids": [3]}},
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})";
  const auto open = [&](const std::string& name, const std::string& patch, const char* rule) {
    return Folder()
        .with_small(patch)
        .with("tokenizer_config.json",
              R"({"bos_token": "<s>", "eos_token": "b", "tokenizer_class": ")" + name + "\", " +
                  rule + "}")
        .open();
  };
  const char* never = R"("add_bos_token": false)";
  const char* both = R"("add_bos_token": true, "add_eos_token": true)";
  EXPECT_EQ(open("LlamaTokenizerFast", with_template, never).encode("a"), (Ids{0}));
  EXPECT_EQ(open("PreTrainedTokenizerFast", with_template, never).encode("a"), (Ids{3, 0}));
  EXPECT_EQ(open("LlamaTokenizer", "{}", both).encode("a"), (Ids{3, 0, 1}));
  EXPECT_EQ(open("GPT2Tokenizer", "{}", both).encode("a"), (Ids{0}));
  EXPECT_TRUE(open("LlamaTokenizer", "{}", both).adds_bos());
  EXPECT_EQ(open("LlamaTokenizer", "{}", both).encode("a", false), (Ids{0}));
}

TEST(TokenizerConfig, AddsTokensAndRefusesContradictions) {
  const auto folder = [](const std::string& config) {
    Folder result;
    result.with_small().with("tokenizer_config.json", config);
    return result;
  };
  const Tokenizer tokenizer =
      folder(R"({"added_tokens_decoder": {"7": {"content": "<x>", "special": true}}})").open();
  EXPECT_EQ(tokenizer.encode("a<x>b"), (Ids{0, 7, 1}));
  EXPECT_EQ(tokenizer.vocabulary_size(), 8);
  EXPECT_THAT(folder(R"({"added_tokens_decoder": {"0": {"content": "<x>"}}})").error(),
              testing::HasSubstr("tokenizer_config.json: added_tokens_decoder: id 0 has two"));
  EXPECT_THAT(folder(R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})").error(),
              testing::HasSubstr("'x' is not an id"));
  EXPECT_THAT(folder(R"({"added_tokens_decoder": []})").error(),
              testing::HasSubstr("added_tokens_decoder: expected an object"));
  EXPECT_THAT(folder(R"({"bos_token": "<bos>"})").error(),
              testing::HasSubstr("bos_token '<bos>' is not in the vocabulary"));
  EXPECT_THAT(folder(R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true})").error(),
              testing::HasSubstr("there is no bos_token"));
  EXPECT_THAT(folder(R"({"add_bos_token": "yes"})").error(),
              testing::HasSubstr("tokenizer_config.json: add_bos_token: expected true or false"));
}

}  // namespace nibble
