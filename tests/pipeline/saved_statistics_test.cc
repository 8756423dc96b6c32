// Files of statistics that are damaged, or say what cannot be.
#include "src/pipeline/saved_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include "calibration/stats.h"
#include "formats/checkpoint.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/fingerprint.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using testing::HasSubstr;

class SavedStatisticsTest : public testing::Test {
 protected:
  SavedStatisticsTest() {
    StatisticsOrigin origin;
    origin.model = to_text(hash_of(model_));
    origin.windows = 8;
    origin.seq_len = 4;
    StatisticsWriter writer(file(), config_, origin, {.histograms = true, .replace = false});
    for (int64_t block = 0; block < config_.layers; ++block) {
      for (const InputGroup group : kBlockGroups) {
        const int64_t K = input_width(config_, group);
        InputStatistics statistics{.tokens = 32,
                                   .H = Matrix::Identity(K, K),
                                   .mean_absolute = Vector::Ones(K),
                                   .largest = Vector::Ones(K),
                                   .histogram = {}};
        statistics.histogram.add(Matrix::Ones(2, 2), "inputs");
        writer.write(block, group, false, statistics);
      }
    }
    writer.finish();
  }

  std::filesystem::path file() const { return folder_.path() / "stats.safetensors"; }

  // The message of reading the file with these bytes in another's place.
  std::string error_with(const std::string& from, const std::string& to) const {
    const std::string before = read_file(file());
    const size_t place = before.find(from);
    EXPECT_NE(place, std::string::npos);
    EXPECT_EQ(from.size(), to.size());
    write_file(file(), std::string(before).replace(place, from.size(), to));
    const std::string message = error();
    write_file(file(), before);
    return message;
  }
  // The same with the first number of a tensor, or of one alike, replaced.
  template <typename T>
  std::string error_with_number(const std::string& tensor, T value) const {
    std::string bytes = read_file(file());
    {
      const Checkpoint stored = Checkpoint::open(file());
      const std::string content(reinterpret_cast<const char*>(stored.tensor(tensor).bytes().data()),
                                stored.tensor(tensor).bytes().size());
      const size_t place = bytes.rfind(content);
      std::memcpy(bytes.data() + place, &value, sizeof value);
    }
    write_file(file(), bytes);
    return error();
  }

 private:
  std::string error() const {
    try {
      SavedStatistics statistics(file(), model_, config_, false);
      for (int64_t block = 0; block < config_.layers; ++block) {
        statistics.enter(block);
        for (const InputGroup group : kBlockGroups) statistics.collect(group);
      }
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  Checkpoint model_ = Checkpoint::open(own_test_data() / "tiny" / "llama-tied");
  Config config_ = read_config(model_.config(), "config.json");
};

TEST_F(SavedStatisticsTest, WhatWasWrittenIsRead) {
  EXPECT_EQ(error_with("windows", "windows"), "");
}

TEST_F(SavedStatisticsTest, ImpossibleOriginsAreNamed) {
  EXPECT_THAT(error_with("seq_len\\\":4", "seq_len\\\":0"),
              HasSubstr("stats.safetensors: nibble_statistics: 'seq_len' is 0"));
  EXPECT_THAT(error_with("held_out\\\":0", "held_out\\\":9"), HasSubstr("'held_out' is 9"));
  EXPECT_THAT(error_with("windows", "windoes"), HasSubstr("no 'windows'"));
}

TEST_F(SavedStatisticsTest, NumbersThatAreNoneAreNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error_with_number("block.0.mlp.largest", nan), HasSubstr("is not finite"));
}

TEST_F(SavedStatisticsTest, HistogramsThatCannotBeAreNamed) {
  EXPECT_THAT(error_with_number("block.1.mlp_down.histogram_place", 1e300),
              HasSubstr("'block.1.mlp_down.histogram_place': no histogram's numbers"));
}

}  // namespace
}  // namespace nibble
