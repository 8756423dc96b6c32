#include "calibration/lint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "calibration/dataset.h"
#include "calibration/windows.h"
#include "src/model/tokenizer.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::string json_line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

// Some words, always the same for a seed.
std::string words(size_t count, uint32_t seed) {
  const std::vector<std::string> all = {"the", "old", "man", "and", "sea", "had", "gone", "far"};
  std::mt19937 generator(seed);
  std::string text;
  for (size_t i = 0; i < count; ++i) text += (i == 0 ? "" : " ") + all[generator() % all.size()];
  return text;
}

class CalibrationLintTest : public testing::Test {
 protected:
  CalibrationWindows windows(const std::string& lines, CalibrationOptions options) {
    options.dataset = folder_.path() / "texts.jsonl";
    write_file(options.dataset, lines);
    return calibration_windows(options, &tokenizer_, tokenizer_.vocabulary_size());
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_ = Tokenizer::open(own_test_data() / "bookworm-5m");
};

// Documents in windows, however they are cut.
void expect_sum(const CalibrationWindows& windows) {
  EXPECT_EQ(windows.counts.tokens_read,
            std::ssize(windows.ids) + windows.counts.tokens_dropped + windows.counts.tokens_cut);
}

TEST_F(CalibrationLintTest, CountsWhatBecameOfDocuments) {
  const std::string texts = json_line(words(100, 1)) + json_line(words(5, 2)) +
                            json_line(words(300, 3)) + json_line(words(100, 1)) +
                            json_line(words(7, 4));
  std::vector<int64_t> lengths;
  for (const auto& [count, seed] :
       std::vector<std::pair<size_t, uint32_t>>{{100, 1}, {5, 2}, {300, 3}, {100, 1}, {7, 4}}) {
    lengths.push_back(std::ssize(tokenizer_.encode(words(count, seed))));
  }
  const int64_t total = lengths[0] + lengths[1] + lengths[2] + lengths[3] + lengths[4];

  const CalibrationWindows packed = windows(texts, {.samples = 1000, .seq_len = 64});
  EXPECT_EQ(packed.counts.documents, 5);
  EXPECT_EQ(packed.counts.documents_used, 5);
  EXPECT_EQ(packed.counts.documents_dropped, 0);
  EXPECT_EQ(packed.counts.documents_cut, 0);
  EXPECT_EQ(packed.counts.duplicates, 1);
  EXPECT_EQ(packed.counts.tokens_read, total);
  EXPECT_EQ(packed.counts.tokens_cut, total % 64);
  expect_sum(packed);

  const CalibrationWindows cut = windows(texts, {.samples = 1000, .seq_len = 64, .pack = false});
  EXPECT_EQ(cut.windows, 3);
  EXPECT_EQ(cut.counts.documents_used, 3);
  EXPECT_EQ(cut.counts.documents_dropped, 2);
  EXPECT_EQ(cut.counts.documents_cut, 3);
  EXPECT_EQ(cut.counts.tokens_dropped, lengths[1] + lengths[4]);
  EXPECT_EQ(cut.counts.tokens_cut, lengths[0] + lengths[2] + lengths[3] - 3 * 64);
  expect_sum(cut);
  EXPECT_THAT(cut.notes, Contains(HasSubstr("3 documents are longer than a window: " +
                                            std::to_string(cut.counts.tokens_cut) + " tokens")));
  EXPECT_THAT(
      describe(lint_calibration(cut, &tokenizer_, {})),
      ElementsAre("3 windows of 64 tokens from 3 of 5 documents, no BOS",
                  HasSubstr("dropped as shorter than a window: 2 documents, "),
                  "cut to one window: 3 documents", HasSubstr("read and left out behind windows: "),
                  "equal to an earlier one: 1 document"));

  // Enough after some documents: the others are not read.
  const CalibrationWindows few = windows(texts, {.samples = 1, .seq_len = 64});
  EXPECT_LT(few.counts.tokens_read, total);
  EXPECT_LT(few.counts.documents_used, 5);
  expect_sum(few);
}

TEST_F(CalibrationLintTest, AWindowLongDocumentIsNeitherCutNorDropped) {
  const auto length = std::ssize(tokenizer_.encode(words(40, 1)));
  const CalibrationWindows exact =
      windows(json_line(words(40, 1)), {.samples = 4, .seq_len = length, .pack = false});
  EXPECT_EQ(exact.counts.documents_used, 1);
  EXPECT_EQ(exact.counts.documents_cut, 0);
  EXPECT_EQ(exact.counts.tokens_cut, 0);
  EXPECT_THAT(exact.notes, ElementsAre(HasSubstr("fills 1 of 4 windows")));
}

TEST_F(CalibrationLintTest, SpecialTokensSpelledInTheTextAreCounted) {
  const Ids special = tokenizer_.encode("<|endoftext|>", false);
  ASSERT_EQ(special.size(), 1U);
  const CalibrationWindows found =
      windows(json_line("<|endoftext|>" + words(30, 1) + "<|endoftext|>") +
                  json_line(words(50, 2)) + json_line("a<|endoftext|>b"),
              {.samples = 100, .seq_len = 16});
  EXPECT_EQ(found.counts.special_tokens, (std::map<int32_t, int64_t>{{special[0], 3}}));
  const CalibrationLint lint = lint_calibration(found, &tokenizer_, {});
  ASSERT_EQ(lint.special_tokens.size(), 1U);
  EXPECT_EQ(lint.special_tokens[0].text, "<|endoftext|>");
  EXPECT_THAT(describe(lint),
              Contains(HasSubstr("special token '<|endoftext|>' (id " + std::to_string(special[0]) +
                                 ") in the text: 3 times")));
}

TEST_F(CalibrationLintTest, WhatTheTokenizerAddsIsNotSpelled) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer llama = Tokenizer::open(test_data() / "tokenizers" / "llama2");
  CalibrationOptions options = {.samples = 100, .seq_len = 16};
  options.dataset = folder_.path() / "texts.jsonl";
  write_file(options.dataset, json_line(words(30, 1)) + json_line(words(30, 2)));
  CalibrationWindows found = calibration_windows(options, &llama, 32000);
  EXPECT_EQ(std::count(found.ids.begin(), found.ids.end(), 1), 2);  // BOS of each document
  EXPECT_TRUE(found.counts.special_tokens.empty());
  const CalibrationLint lint = lint_calibration(found, &llama, {});
  EXPECT_TRUE(lint.documents_start_with_bos);
  EXPECT_THAT(describe(lint)[0], HasSubstr("BOS at the start of each document"));
  write_file(options.dataset, json_line("<s>" + words(30, 1)) + json_line("</s>" + words(30, 2)));
  found = calibration_windows(options, &llama, 32000);
  EXPECT_EQ(found.counts.special_tokens, (std::map<int32_t, int64_t>{{1, 1}, {2, 1}}));
}

TEST_F(CalibrationLintTest, IdsAreTakenAsTheyAre) {
  const int32_t special = tokenizer_.encode("<|endoftext|>", false)[0];
  std::string bytes;
  for (int i = 0; i < 70; ++i) {
    const int id = i % 35 == 0 ? special : 100 + i;
    bytes += {static_cast<char>(id & 255), static_cast<char>(id >> 8)};
  }
  CalibrationOptions options = {.dataset = folder_.path() / "ids.bin", .samples = 2, .seq_len = 32};
  write_file(options.dataset, bytes);
  const CalibrationWindows found = calibration_windows(options, &tokenizer_, 4096);
  EXPECT_EQ(found.counts.documents, 0);
  EXPECT_EQ(found.counts.tokens_read, 70);
  EXPECT_EQ(found.counts.tokens_cut, 6);
  EXPECT_EQ(found.counts.special_tokens, (std::map<int32_t, int64_t>{{special, 2}}));
  EXPECT_EQ(describe(lint_calibration(found, &tokenizer_, {}))[0],
            "2 windows of 32 tokens, ids as they are");
  const CalibrationWindows bare = calibration_windows(options, nullptr, 4096);
  EXPECT_EQ(bare.ids, found.ids);
  EXPECT_TRUE(bare.counts.special_tokens.empty());
}

TEST_F(CalibrationLintTest, TheSeedDecidesTheWindows) {
  // As made before counts were kept: a change here changes every calibrated model.
  std::string texts;
  for (uint32_t i = 0; i < 20; ++i) texts += json_line(words(10 + i, i));
  const CalibrationWindows first = windows(texts, {.samples = 4, .seq_len = 32, .seed = 7});
  EXPECT_EQ(first.ids, windows(texts, {.samples = 4, .seq_len = 32, .seed = 7}).ids);
  EXPECT_NE(first.ids, windows(texts, {.samples = 4, .seq_len = 32, .seed = 8}).ids);
  const auto hash = [](const Ids& ids) {  // FNV-1a
    uint64_t sum = 14695981039346656037U;
    for (const int32_t id : ids) sum = (sum ^ static_cast<uint64_t>(id)) * 1099511628211U;
    return sum;
  };
  EXPECT_EQ(hash(first.ids), 1137313049245139182U);
  const Ids cut = windows(texts, {.samples = 4, .seq_len = 16, .seed = 7, .pack = false}).ids;
  EXPECT_EQ(hash(cut), 5836317809406532908U);
}

CalibrationWindows of_ids(const Ids& ids, int64_t seq_len) {
  CalibrationWindows windows;
  windows.ids = ids;
  windows.seq_len = seq_len;
  windows.windows = std::ssize(ids) / seq_len;
  return windows;
}

// By the definition: every run of every window compared with every place of the other stream.
Overlap compared(const CalibrationWindows& windows, const Ids& evaluation) {
  const auto run = static_cast<int64_t>(Overlap::kRun);
  Overlap result;
  int64_t tokens = 0;
  for (int64_t w = 0; w < windows.windows; ++w) {
    std::vector<bool> shared(static_cast<size_t>(windows.seq_len));
    for (int64_t i = 0; i + run <= windows.seq_len; ++i) {
      const auto from = windows.ids.begin() + w * windows.seq_len + i;
      if (std::search(evaluation.begin(), evaluation.end(), from, from + run) == evaluation.end()) {
        continue;
      }
      std::fill(shared.begin() + i, shared.begin() + i + run, true);
    }
    const auto here = std::count(shared.begin(), shared.end(), true);
    tokens += here;
    result.windows += here > 0 ? 1 : 0;
  }
  result.token_share = static_cast<double>(tokens) / static_cast<double>(windows.ids.size());
  return result;
}

TEST(CalibrationOverlap, IsThatOfEveryRunCompared) {
  std::mt19937 generator(2);
  Ids evaluation(700);
  for (int32_t& id : evaluation) id = static_cast<int32_t>(generator() % 40);
  for (const int copied : {0, 31, 32, 33, 60, 100}) {
    for (const int64_t seq_len : {50, 128}) {
      Ids ids(512);
      for (int32_t& id : ids) id = static_cast<int32_t>(generator() % 40);
      std::copy_n(evaluation.begin() + 90, copied, ids.begin() + 140);
      std::copy_n(evaluation.begin() + 600, std::min(copied, 40), ids.begin() + 300);
      ids.resize(static_cast<size_t>(512 / seq_len * seq_len));
      const CalibrationWindows windows = of_ids(ids, seq_len);
      const Overlap found = overlap(windows, evaluation);
      const Overlap expected = compared(windows, evaluation);
      EXPECT_EQ(found.token_share, expected.token_share) << copied << " " << seq_len;
      EXPECT_EQ(found.windows, expected.windows) << copied << " " << seq_len;
      EXPECT_EQ(found.windows > 0, copied >= 32) << copied << " " << seq_len;
    }
  }
}

TEST(CalibrationOverlap, OfItselfIsAllAndOfShortTextsNone) {
  Ids ids(256);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 97);
  EXPECT_EQ(overlap(of_ids(ids, 64), ids).token_share, 1.);
  EXPECT_EQ(overlap(of_ids(ids, 64), ids).windows, 4);
  EXPECT_EQ(overlap(of_ids(ids, 16), ids).token_share, 0.);
  EXPECT_EQ(overlap(of_ids(ids, 64), Ids(ids.begin(), ids.begin() + 31)).token_share, 0.);
  const CalibrationLint lint = lint_calibration(of_ids(ids, 64), nullptr, ids);
  ASSERT_TRUE(lint.overlap);
  EXPECT_EQ(describe(lint).back(),
            "shared with the evaluation data, in runs of 32 tokens or more: 100.00 % of the "
            "tokens, in 4 windows");
  EXPECT_FALSE(lint_calibration(of_ids(ids, 64), nullptr, {}).overlap);
}

TEST(CalibrationOverlap, OfRealTexts) {
  NIBBLE_NEEDS_TEST_DATA();
  const Tokenizer tokenizer = Tokenizer::open(own_test_data() / "bookworm-5m");
  const CalibrationWindows windows = calibration_windows(
      {.dataset = test_data() / "text" / "books.calib.jsonl", .samples = 128, .seq_len = 512},
      &tokenizer, 4096);
  const auto stream = [&](const char* file) {
    return token_stream(read_dataset(test_data() / "text" / file, {}), &tokenizer, 4096);
  };
  EXPECT_LT(overlap(windows, stream("books.eval.txt")).token_share, .01);  // other books
  // Made of the same documents in another order.
  EXPECT_GT(overlap(windows, stream("books.calib.bookworm-ids.npy")).token_share, .03);
}

}  // namespace
}  // namespace nibble
