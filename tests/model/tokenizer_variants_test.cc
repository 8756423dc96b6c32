// Every section of tokenizer.json, against Hugging Face tokenizers (tools/golden/tokenizer_ids.py).
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/model/tokenizer.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {

namespace {

uint32_t crc_of(const void* bytes, size_t size) {
  return static_cast<uint32_t>(crc32(0, static_cast<const Bytef*>(bytes), static_cast<uInt>(size)));
}

Json apply(Json base, const Json& patch) {
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      for (const auto& [option, setting] : value.items()) base["model"][option] = setting;
    } else {
      base[key] = value;
    }
  }
  return base;
}

}  // namespace

TEST(TokenizerVariants, HaveTheIdsAndTextsOfHuggingFace) {
  const Json golden = golden_results("tokenizers");
  const std::map<std::string, Json> bases{
      {"bookworm-5m", read_json(own_test_data() / "bookworm-5m" / "tokenizer.json")},
      {"pieces", golden["pieces"]}};
  EXPECT_GT(golden["variants"].size(), 40u);
  for (const Json& variant : golden["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const TemporaryFolder folder;
    write_file(folder.path() / "tokenizer.json",
               apply(bases.at(variant["base"]), variant["patch"]).dump());
    const Tokenizer tokenizer = Tokenizer::open(folder.path());
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const auto text = golden["texts"][i].get<std::string>();
      const auto ids = tokenizer.encode(text);
      EXPECT_EQ(ids.size(), variant["counts"][i].get<size_t>()) << text;
      EXPECT_EQ(crc_of(ids.data(), ids.size() * sizeof(int32_t)), variant["ids"][i]) << text;
      if (!variant.contains("decoded")) continue;
      const std::string plain = tokenizer.decode(ids);
      const std::string whole = tokenizer.decode(ids, false);
      EXPECT_EQ(crc_of(plain.data(), plain.size()), variant["decoded"][i]) << text << "\n" << plain;
      EXPECT_EQ(crc_of(whole.data(), whole.size()), variant["decoded_with_special"][i]) << text;
    }
  }
}

}  // namespace nibble
