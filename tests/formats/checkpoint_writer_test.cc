#include "formats/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class CheckpointWriterTest : public testing::Test {
 protected:
  fs::path out() const { return parent_.path() / "out"; }
  std::vector<std::string> names_in(const fs::path& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  std::vector<std::string> beside_out() const { return names_in(parent_.path()); }

 private:
  TemporaryFolder parent_;
};

TEST_F(CheckpointWriterTest, WhatIsWrittenInAnyOrderReadsBack) {
  std::mt19937 random(1);
  std::vector<TensorInfo> tensors;
  std::vector<std::string> values;
  for (int i = 0; i <= static_cast<int>(Dtype::kU64); ++i) {
    const auto dtype = static_cast<Dtype>(i);
    tensors.push_back(
        {"t" + std::to_string(random() % 1000) + std::to_string(i), dtype, {4, int64_t{2} * i}});
    values.emplace_back(static_cast<size_t>(byte_count(dtype, tensors.back().shape)), '\0');
    for (char& value : values.back()) value = static_cast<char>(random());
  }
  CheckpointWriter writer(out(), {});
  for (const TensorInfo& tensor : tensors) writer.declare(tensor);
  writer.plan();
  for (size_t i = tensors.size(); i-- > 0;) writer.write(tensors[i].name, as_bytes(values[i]));
  writer.write_json("config.json", {{"model_type", "llama"}});
  const int64_t bytes = writer.finish();

  EXPECT_EQ(bytes, static_cast<int64_t>(fs::file_size(out() / "model.safetensors") +
                                        fs::file_size(out() / "config.json")));
  const Checkpoint checkpoint = Checkpoint::open(out());
  EXPECT_EQ(checkpoint.tensors().size(), tensors.size());
  EXPECT_EQ(checkpoint.metadata().at("format"), "pt");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor tensor = checkpoint.tensor(tensors[i].name);
    EXPECT_EQ(tensor.dtype(), tensors[i].dtype);
    EXPECT_EQ(tensor.shape(), tensors[i].shape);
    EXPECT_TRUE(std::ranges::equal(tensor.bytes(), as_bytes(values[i]))) << tensors[i].name;
  }
  EXPECT_EQ(names_in(out()), (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_EQ(beside_out(), std::vector<std::string>{"out"});
}

TEST_F(CheckpointWriterTest, TheHeaderIsTheReferenceWriters) {
  CheckpointWriter writer(out(), {});
  writer.declare({"b", Dtype::kF16, {1}});
  writer.declare({"a", Dtype::kF16, {2}});
  writer.declare({"z", Dtype::kF32, {1}});
  writer.plan();
  writer.write("a", as_bytes("aaaa"));
  writer.write("b", as_bytes("bb"));
  writer.write("z", as_bytes("zzzz"));
  writer.finish();
  std::string header =
      R"({"__metadata__":{"format":"pt"},"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
      R"("a":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},)"
      R"("b":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(read_file(out() / "model.safetensors"), raw_safetensors(header, "zzzzaaaabb"));
}

TEST_F(CheckpointWriterTest, ShardsAreCutAtTheLimitInTheOrderOfDeclaration) {
  CheckpointWriter writer(out(), {.shard_bytes = 100});
  const std::vector<std::pair<std::string, int64_t>> tensors = {
      {"e", 60}, {"d", 40}, {"c", 1}, {"b", 250}, {"a", 100}, {"z", 0}, {"y", 1}};
  for (const auto& [name, bytes] : tensors) writer.declare({name, Dtype::kU8, {bytes}});
  writer.plan();
  for (const auto& [name, bytes] : tensors) {
    writer.write(name, as_bytes(std::string(static_cast<size_t>(bytes), name[0])));
  }
  writer.write_json("config.json", Json::object());
  writer.finish();

  const Json index = read_json(out() / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 452);
  const auto file = [](int number) {
    return "model-0000" + std::to_string(number) + "-of-00005.safetensors";
  };
  const Json expected = {{"a", file(4)}, {"b", file(3)}, {"c", file(2)}, {"d", file(1)},
                         {"e", file(1)}, {"y", file(5)}, {"z", file(4)}};
  EXPECT_EQ(index["weight_map"], expected);
  const Checkpoint checkpoint = Checkpoint::open(out());
  for (const auto& [name, bytes] : tensors) {
    const Tensor tensor = checkpoint.tensor(name);
    ASSERT_EQ(tensor.elements(), bytes);
    for (const uint8_t value : tensor.values<uint8_t>()) ASSERT_EQ(value, name[0]);
  }
  for (int number = 1; number <= 5; ++number) {
    const auto shard = SafetensorsFile::open(out() / file(number));
    EXPECT_EQ(shard->header_bytes() % 8, 0);
    EXPECT_EQ(shard->header().metadata.at("format"), "pt");
  }
}

TEST_F(CheckpointWriterTest, ThreadsMayWriteTogether) {
  constexpr int kTensors = 64;
  const auto name = [](int i) { return "t" + std::to_string(i); };
  const auto value = [](int i) { return std::string(10'000, static_cast<char>(i)); };
  CheckpointWriter writer(out(), {.shard_bytes = 100'000});
  for (int i = 0; i < kTensors; ++i) writer.declare({name(i), Dtype::kU8, {10'000}});
  writer.plan();
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < kTensors; i += 8) writer.write(name(i), as_bytes(value(i)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  writer.write_json("config.json", Json::object());
  writer.finish();
  const Checkpoint checkpoint = Checkpoint::open(out());
  for (int i = 0; i < kTensors; ++i) {
    EXPECT_TRUE(std::ranges::equal(checkpoint.tensor(name(i)).bytes(), as_bytes(value(i))));
  }
}

TEST_F(CheckpointWriterTest, SideFilesAreCopied) {
  const TemporaryFolder source;
  write_file(source.path() / "tokenizer.json", std::string("{}\0x", 4));
  CheckpointWriter writer(out(), {});
  writer.plan();
  writer.copy_file(source.path() / "tokenizer.json");
  writer.write_file("notes", "first, and longer");
  writer.write_file("notes", "second");
  writer.write_json("config.json", {{"b", 1}, {"a", "é"}});
  const int64_t bytes = writer.finish();
  const auto weights = static_cast<int64_t>(fs::file_size(out() / "model.safetensors"));
  EXPECT_EQ(bytes, 4 + 6 + 26 + weights);
  EXPECT_EQ(read_file(out() / "tokenizer.json"), std::string("{}\0x", 4));
  EXPECT_EQ(read_file(out() / "notes"), "second");
  EXPECT_EQ(read_file(out() / "config.json"), "{\n  \"b\": 1,\n  \"a\": \"é\"\n}\n");
}

TEST_F(CheckpointWriterTest, MistakesAreNamed) {
  CheckpointWriter writer(out(), {});
  const auto refusal = [](auto call) { return message_of<Error>(call); };
  EXPECT_THAT(refusal([&] { writer.write("a", {}); }),
              HasSubstr("tensor 'a': written but not planned"));
  EXPECT_THAT(refusal([&] { writer.finish(); }), HasSubstr("finished without a plan"));
  writer.declare({"a", Dtype::kF32, {2}});
  writer.declare({"b", Dtype::kF32, {2}});
  EXPECT_THAT(refusal([&] {
                writer.declare({"a", Dtype::kF32, {2}});
              }),
              HasSubstr("'a': declared twice"));
  EXPECT_THAT(refusal([&] {
                writer.declare({"__metadata__", Dtype::kF32, {2}});
              }),
              HasSubstr("not a tensor name"));
  EXPECT_THAT(refusal([&] { writer.declare({"f", Dtype::kF4, {3}}); }), HasSubstr("whole bytes"));
  EXPECT_THAT(refusal([&] {
                writer.declare({"g", Dtype::kF32, {INT64_MAX, 2}});
              }),
              HasSubstr("63 bits"));
  writer.plan();
  EXPECT_THAT(refusal([&] { writer.plan(); }), HasSubstr("planned twice"));
  EXPECT_THAT(refusal([&] {
                writer.declare({"c", Dtype::kF32, {2}});
              }),
              HasSubstr("after the plan"));
  EXPECT_THAT(refusal([&] { writer.write("c", {}); }), HasSubstr("'c': written but not planned"));
  EXPECT_THAT(refusal([&] { writer.write("a", as_bytes("1234")); }),
              HasSubstr("tensor 'a': 4 bytes written, 8 declared"));
  writer.write("a", as_bytes("12345678"));
  EXPECT_THAT(refusal([&] { writer.write("a", as_bytes("12345678")); }),
              HasSubstr("written twice"));
  EXPECT_THAT(refusal([&] { writer.finish(); }),
              HasSubstr("tensor 'b': declared but never written"));
  for (const char* name :
       {"", ".", "..", "../x", "x/y", "x.safetensors", "model.safetensors.index.json"}) {
    EXPECT_THAT(refusal([&] { writer.write_file(name, ""); }), HasSubstr("file")) << name;
  }
  EXPECT_THAT(refusal([&] { writer.copy_file("/no/such/file"); }), HasSubstr("cannot be read"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(CheckpointWriterTest, AShardSizeOfNothingIsRefused) {
  EXPECT_THAT(message_of<Error>([&] { CheckpointWriter(out(), {.shard_bytes = 0}); }),
              HasSubstr("shard size: must be positive"));
  EXPECT_TRUE(beside_out().empty());
}

TEST_F(CheckpointWriterTest, AnExceptionBetweenWritesLeavesNothing) {
  const auto quantize = [&] {
    CheckpointWriter writer(out(), {});
    writer.declare({"a", Dtype::kU8, {4}});
    writer.declare({"b", Dtype::kU8, {4}});
    writer.plan();
    writer.write("a", as_bytes("1234"));
    throw Error("solver", "stops");
  };
  EXPECT_EQ(message_of<Error>(quantize), "solver: stops");
  EXPECT_TRUE(beside_out().empty());
}

TEST_F(CheckpointWriterTest, AbandonRemovesEverythingAtOnce) {
  CheckpointWriter writer(out(), {});
  writer.declare({"a", Dtype::kU8, {4}});
  writer.plan();
  EXPECT_TRUE(fs::exists(writer.temporary_folder()));
  writer.abandon();
  EXPECT_TRUE(beside_out().empty());
}

TEST_F(CheckpointWriterTest, ADiskTooSmallIsNoticedBeforeAnyWork) {
  {
    CheckpointWriter writer(out(), {});
    writer.declare({"a", Dtype::kU8, {int64_t{1} << 59}});
    EXPECT_THAT(message_of<Error>([&] { writer.plan(); }),
                HasSubstr(" bytes are needed, the disk has "));
  }
  EXPECT_TRUE(beside_out().empty());
}

// Limits the size of files for its lifetime.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : signal_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, signal_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*signal_)(int);
};

TEST_F(CheckpointWriterTest, AWriteThatFailsHalfWayLeavesNoFolder) {
  const std::string value(1 << 20, 'x');
  {
    CheckpointWriter writer(out(), {});
    writer.declare({"a", Dtype::kU8, {1 << 20}});
    writer.declare({"b", Dtype::kU8, {1 << 20}});
    writer.plan();
    writer.write("a", as_bytes(value));
    const FileSizeLimit limit((1 << 20) + 65536);
    EXPECT_THAT(message_of<Error>([&] { writer.write("b", as_bytes(value)); }),
                HasSubstr("model.safetensors: cannot be written at byte "));
    EXPECT_THAT(message_of<Error>([&] { writer.finish(); }),
                HasSubstr("tensor 'b': declared but never"));
  }
  EXPECT_TRUE(beside_out().empty());
}

TEST_F(CheckpointWriterTest, APlanBeyondALimitLeavesNoFolder) {
  {
    CheckpointWriter writer(out(), {});
    writer.declare({"a", Dtype::kU8, {1 << 20}});
    const FileSizeLimit limit(65536);
    EXPECT_THAT(message_of<Error>([&] { writer.plan(); }), HasSubstr("cannot reserve "));
  }
  EXPECT_TRUE(beside_out().empty());
}

TEST_F(CheckpointWriterTest, AKilledProcessLeavesOnlyItsPartialFolder) {
  const pid_t child = ::fork();
  if (child == 0) {
    CheckpointWriter writer(out(), {});
    writer.declare({"a", Dtype::kU8, {4}});
    writer.declare({"b", Dtype::kU8, {4}});
    writer.plan();
    writer.write("a", as_bytes("1234"));
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status & 0x7f, SIGKILL);
  EXPECT_EQ(beside_out(), std::vector<std::string>{"out.partial-" + std::to_string(child)});
}

TEST_F(CheckpointWriterTest, AnExistingModelIsReplacedOnlyWhenAskedAndWhole) {
  const auto write = [&](const std::string& value, bool replace) {
    CheckpointWriter writer(out(), {.replace = replace});
    writer.declare({"a", Dtype::kU8, {1}});
    writer.plan();
    writer.write("a", as_bytes(value));
    writer.write_json("config.json", Json::object());
    EXPECT_EQ(fs::exists(out()), replace);
    writer.finish();
  };
  const auto stored = [&] { return Checkpoint::open(out()).tensor("a").values<uint8_t>()[0]; };
  write("1", false);
  const Checkpoint old = Checkpoint::open(out());
  EXPECT_THAT(message_of<Error>([&] { write("2", false); }), HasSubstr("exists already"));
  EXPECT_EQ(stored(), '1');
  write("2", true);
  EXPECT_EQ(stored(), '2');
  EXPECT_EQ(old.tensor("a").values<uint8_t>()[0], '1');  // what was mapped stays
  EXPECT_EQ(beside_out(), std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace nibble
