// Patterns and rules: Hugging Face tokenizers 0.2x, src/pre_tokenizers; GPT-2: Radford et al. 2019,
// encoder.py; Qwen2 and Llama 3: their published tokenizer.json.
#include "src/model/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "src/model/byte_letters.h"
#include "src/model/json_view.h"
#include "src/model/normalizer.h"
#include "src/model/regex.h"
#include "src/model/utf8.h"

namespace nibble {

namespace {

using WordStep = std::function<Words(const Words&)>;

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// ASCII symbols count as punctuation, beside Unicode's own.
constexpr std::string_view kPunctuation = R"([\p{P}$+<=>\^`|~])";

struct Part {
  size_t begin;
  size_t end;
  bool match;
};

// The whole word as matches and what lies between them.
void list_parts(const std::vector<RegexMatch>& matches, size_t size, bool invert,
                std::vector<Part>& parts) {
  parts.clear();
  size_t covered = 0;
  for (const RegexMatch& match : matches) {
    if (match.begin != covered) parts.push_back({covered, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    covered = match.end;
  }
  if (covered != size) parts.push_back({covered, size, invert});
}

// Joins parts from left to right while joins(part, previous) says so.
template <typename Joins>
void join_parts(std::vector<Part>& parts, Joins joins) {
  size_t kept = 0;
  bool previous = false;
  for (const Part& part : parts) {
    if (kept > 0 && joins(part.match, previous)) {
      parts[kept - 1].end = part.end;
    } else {
      parts[kept++] = part;
    }
    previous = part.match;
  }
  parts.resize(kept);
}

// Joins each match to the part behind it: to the one before it, seen from the end.
void join_with_next(std::vector<Part>& parts) {
  std::vector<Part> joined;
  bool next = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (!joined.empty() && part->match && !next) {
      joined.back().begin = part->begin;
    } else {
      joined.push_back(*part);
    }
    next = part->match;
  }
  parts.assign(joined.rbegin(), joined.rend());
}

void apply_behavior(SplitBehavior behavior, std::vector<Part>& parts) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const Part& part) { return part.match; });
      return;
    case SplitBehavior::kContiguous:
      return join_parts(parts, [](bool match, bool previous) { return match == previous; });
    case SplitBehavior::kMergedWithPrevious:
      return join_parts(parts, [](bool match, bool previous) { return match && !previous; });
    case SplitBehavior::kMergedWithNext:
      return join_with_next(parts);
  }
}

WordStep split(Regex regex, SplitBehavior behavior, bool invert) {
  auto shared = std::make_shared<const Regex>(std::move(regex));
  return [regex = std::move(shared), behavior, invert](const Words& words) {
    RegexScanner scanner(*regex);
    std::vector<RegexMatch> matches;
    std::vector<Part> parts;
    Words result;
    result.text.reserve(words.text.size());
    for (size_t i = 0; i < words.count(); ++i) {
      const std::string_view word = words.word(i);
      scanner.find_all(word, matches);
      list_parts(matches, word.size(), invert, parts);
      apply_behavior(behavior, parts);
      if (i == 0) result.at_start = words.at_start && !parts.empty() && parts[0].begin == 0;
      for (const Part& part : parts) result.add(word.substr(part.begin, part.end - part.begin));
    }
    return result;
  };
}

template <typename Change>
Words change_each(const Words& words, Change change) {
  Words result;
  result.at_start = words.at_start;
  result.text.reserve(words.text.size() * 5 / 4);
  for (size_t i = 0; i < words.count(); ++i) change(i, words.word(i), result);
  return result;
}

Words prefix_with_space(const Words& words) {
  return change_each(words, [](size_t, std::string_view word, Words& result) {
    if (!word.starts_with(' ')) result.text += ' ';
    result.add(word);
  });
}

Words spell_with_letters(const Words& words) {
  const auto& letters = byte_letters();
  return change_each(words, [&](size_t, std::string_view word, Words& result) {
    for (const char byte : word) result.text += letters[static_cast<unsigned char>(byte)];
    result.ends.push_back(result.text.size());
  });
}

enum class SpacePrefix { kAlways, kFirst, kNever };

// Spaces become `mark`, and words get it in front unless they have it.
WordStep mark_spaces(std::string mark, SpacePrefix prefix) {
  return [mark = std::move(mark), prefix](const Words& words) {
    return change_each(words, [&](size_t i, std::string_view word, Words& result) {
      const std::string marked = replace_all(std::string(word), " ", mark);
      const bool wanted = prefix == SpacePrefix::kAlways ||
                          (prefix == SpacePrefix::kFirst && i == 0 && words.at_start);
      if (wanted && !marked.starts_with(mark)) result.text += mark;
      result.add(marked);
    });
  };
}

SplitBehavior behavior_named(const JsonView& name) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames{{
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"Contiguous", SplitBehavior::kContiguous},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
  }};
  for (const auto& [known, behavior] : kNames) {
    if (name.text() == known) return behavior;
  }
  name.fail("split behavior '" + name.text() + "' is not known");
}

SplitBehavior behavior_of(const JsonView& section, SplitBehavior otherwise) {
  const auto name = section.find("behavior");
  return name ? behavior_named(*name) : otherwise;
}

Regex pattern_of(const JsonView& section) {
  const JsonView pattern = section.at("pattern");
  if (const auto regex = pattern.find("Regex")) return Regex(regex->text(), regex->where());
  const JsonView text = pattern.at("String");
  if (text.text().empty()) text.fail("the pattern is empty");
  return Regex::literal(text.text(), text.where());
}

// "prepend_scheme", or its older form "add_prefix_space".
SpacePrefix prefix_of(const JsonView& section) {
  const auto scheme = section.find("prepend_scheme");
  if (!scheme)
    return section.flag("add_prefix_space", true) ? SpacePrefix::kAlways : SpacePrefix::kNever;
  if (scheme->text() == "always") return SpacePrefix::kAlways;
  if (scheme->text() == "first") return SpacePrefix::kFirst;
  if (scheme->text() == "never") return SpacePrefix::kNever;
  scheme->fail("prepend scheme '" + scheme->text() + "' is not known");
}

std::vector<WordStep> split_step(const JsonView& section) {
  return {split(pattern_of(section), behavior_named(section.at("behavior")),
                section.flag("invert", false))};
}

std::vector<WordStep> digits(const JsonView& section) {
  const bool each = section.flag("individual_digits", false);
  return {split(Regex("\\p{N}", section.where()),
                each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false)};
}

std::vector<WordStep> punctuation(const JsonView& section) {
  return {split(Regex(kPunctuation, section.where()),
                behavior_of(section, SplitBehavior::kIsolated), false)};
}

std::vector<WordStep> whitespace(const JsonView& section) {
  return {split(Regex(R"(\w+|[^\w\s]+)", section.where()), SplitBehavior::kRemoved, true)};
}

std::vector<WordStep> whitespace_split(const JsonView& section) {
  return {split(Regex("\\s", section.where()), SplitBehavior::kRemoved, false)};
}

std::vector<WordStep> delimiter(const JsonView& section) {
  const JsonView text = section.at("delimiter");
  if (text.text().empty()) text.fail("the delimiter is empty");
  return {split(Regex::literal(text.text(), text.where()), SplitBehavior::kRemoved, false)};
}

std::vector<WordStep> metaspace_steps(const JsonView& section) {
  const std::string mark = section.text("replacement", "\u2581");
  if (mark.empty() || utf8_length(mark.front()) != mark.size()) {
    section.at("replacement").fail("the replacement is not one character");
  }
  std::vector<WordStep> steps{mark_spaces(mark, prefix_of(section))};
  if (section.flag("split", true)) {
    steps.push_back(
        split(Regex::literal(mark, section.where()), SplitBehavior::kMergedWithNext, false));
  }
  return steps;
}

struct PretokenizerRow {
  std::string_view type;
  std::vector<WordStep> (*make)(const JsonView& section);
};

constexpr std::array<PretokenizerRow, 7> kPretokenizers{{
    {"Split", split_step},
    {"Digits", digits},
    {"Punctuation", punctuation},
    {"Whitespace", whitespace},
    {"WhitespaceSplit", whitespace_split},
    {"CharDelimiterSplit", delimiter},
    {"Metaspace", metaspace_steps},
}};

}  // namespace

void Words::add(std::string_view word) {
  text += word;
  const size_t last = ends.empty() ? 0 : ends.back();
  if (text.size() != last) ends.push_back(text.size());
}

Pretokenizer::Pretokenizer(const JsonView& section) { add(section); }

Pretokenizer Pretokenizer::gpt2(bool add_prefix_space) {
  Pretokenizer result;
  result.add_byte_level(add_prefix_space, true);
  return result;
}

Pretokenizer Pretokenizer::qwen2(bool add_prefix_space) {
  Pretokenizer result;
  result.steps_.push_back(
      split(Regex(kQwen2Pattern, "qwen2 pattern"), SplitBehavior::kIsolated, false));
  result.add_byte_level(add_prefix_space, false);
  return result;
}

Pretokenizer Pretokenizer::llama3() {
  Pretokenizer result;
  result.steps_.push_back(
      split(Regex(kLlama3Pattern, "llama 3 pattern"), SplitBehavior::kIsolated, false));
  result.add_byte_level(false, false);
  return result;
}

Pretokenizer Pretokenizer::llama(bool prefix) {
  Pretokenizer result;
  result.steps_.push_back(
      mark_spaces("\u2581", prefix ? SpacePrefix::kFirst : SpacePrefix::kNever));
  return result;
}

void Pretokenizer::add_byte_level(bool add_prefix_space, bool use_regex) {
  byte_level_ = true;
  if (add_prefix_space) steps_.emplace_back(prefix_with_space);
  if (use_regex) {
    steps_.push_back(split(Regex(kGpt2Pattern, "gpt2 pattern"), SplitBehavior::kIsolated, false));
  }
  steps_.emplace_back(spell_with_letters);
}

void Pretokenizer::add(const JsonView& section) {
  const std::string& type = section.at("type").text();
  if (type == "Sequence") {
    for (const JsonView& part : section.at("pretokenizers").elements()) add(part);
    return;
  }
  if (type == "ByteLevel") {
    if (byte_level_) section.fail("ByteLevel twice is not implemented");
    return add_byte_level(section.flag("add_prefix_space", true), section.flag("use_regex", true));
  }
  const auto row = std::find_if(kPretokenizers.begin(), kPretokenizers.end(),
                                [&](const PretokenizerRow& r) { return r.type == type; });
  if (row == kPretokenizers.end()) {
    section.at("type").fail("pre-tokenizer '" + type + "' is not implemented");
  }
  for (WordStep& step : row->make(section)) steps_.push_back(std::move(step));
}

Words Pretokenizer::apply(std::string text, bool at_start) const {
  Words words;
  words.at_start = at_start;
  words.ends.push_back(text.size());
  words.text = std::move(text);
  for (const WordStep& step : steps_) words = step(words);
  return words;
}

}  // namespace nibble
