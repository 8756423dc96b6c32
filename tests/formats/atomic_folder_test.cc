#include "formats/atomic_folder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>

#include "src/tensor/error.h"
#include "tests/formats/raw_safetensors.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class AtomicFolderTest : public testing::Test {
 protected:
  fs::path target() const { return parent_.path() / "out"; }
  const fs::path& parent() const { return parent_.path(); }
  void put_model(const std::string& config) const {
    fs::create_directory(target());
    write_file(target() / "config.json", config);
  }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(parent()), fs::directory_iterator()));
  }
  std::string refusal(const fs::path& folder, bool replace) const {
    return message_of<Error>([&] { const AtomicFolder made(folder, replace); });
  }
  // What a process that ends in SIGKILL leaves under the name of a partial one.
  template <typename Work>
  fs::path killed(const Work& work) const {
    const pid_t child = ::fork();
    if (child == 0) {
      work();
      ::_exit(1);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return target().string() + ".partial-" + std::to_string(child);
  }

 private:
  TemporaryFolder parent_;
};

TEST_F(AtomicFolderTest, AppearsAtCommit) {
  AtomicFolder folder(target(), false);
  write_file(folder.path() / "x", "1");
  EXPECT_FALSE(fs::exists(target()));
  folder.commit();
  EXPECT_EQ(read_file(target() / "x"), "1");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, LeavesNothingWhenAbandoned) {
  {
    const AtomicFolder folder(target(), false);
    write_file(folder.path() / "x", "1");
    EXPECT_EQ(entries(), 1U);
  }
  EXPECT_EQ(entries(), 0U);
}

TEST_F(AtomicFolderTest, ReplacesAModelWhole) {
  put_model("old");
  write_file(target() / "stale", "old");
  AtomicFolder folder(target(), true);
  write_file(folder.path() / "config.json", "new");
  EXPECT_EQ(read_file(target() / "config.json"), "old");
  folder.commit();
  EXPECT_EQ(read_file(target() / "config.json"), "new");
  EXPECT_FALSE(fs::exists(target() / "stale"));
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, AnAbandonedReplacementLeavesTheOldOne) {
  put_model("old");
  { const AtomicFolder folder(target(), true); }
  EXPECT_EQ(read_file(target() / "config.json"), "old");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, ReplacesTheFolderThatALinkNames) {
  put_model("old");
  fs::create_directory_symlink(target(), parent() / "link");
  AtomicFolder folder(parent() / "link", true);
  write_file(folder.path() / "config.json", "new");
  folder.commit();
  EXPECT_TRUE(fs::is_symlink(parent() / "link"));
  EXPECT_EQ(read_file(target() / "config.json"), "new");
}

TEST_F(AtomicFolderTest, AnEmptyFolderIsNoObstacle) {
  fs::create_directory(target());
  AtomicFolder folder(target() / "", false);  // with a slash at the end
  EXPECT_EQ(folder.target(), fs::canonical(target()));
  folder.commit();
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, WhatIsInTheWayIsNamed) {
  put_model("old");
  EXPECT_THAT(refusal(target(), false), HasSubstr("out: exists already (use --force"));
  fs::rename(target() / "config.json", target() / "diary.txt");
  EXPECT_THAT(refusal(target(), true), HasSubstr("does not look like a model"));
  write_file(parent() / "file", "");
  EXPECT_THAT(refusal(parent() / "file", true), HasSubstr("exists and is not a folder"));
  EXPECT_THAT(refusal(parent() / "absent" / "out", false),
              HasSubstr("parent folder does not exist"));
  EXPECT_EQ(entries(), 2U);
}

TEST_F(AtomicFolderTest, WhatAppearedMeanwhileIsNotOverwritten) {
  AtomicFolder folder(target(), false);
  put_model("of another program");
  EXPECT_THAT(message_of<Error>([&] { folder.commit(); }), HasSubstr("exists already"));
  folder.abandon();
  EXPECT_EQ(read_file(target() / "config.json"), "of another program");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, ADeadProcessOfTheSameNumberIsNoObstacle) {
  const fs::path partial = target().string() + ".partial-" + std::to_string(::getpid());
  fs::create_directories(partial / "inner");
  write_file(partial / "stale", "x");
  AtomicFolder folder(target(), false);
  EXPECT_EQ(folder.path(), partial);
  EXPECT_TRUE(fs::is_empty(partial));
  EXPECT_THAT(folder.removed(), testing::ElementsAre(partial));
}

TEST_F(AtomicFolderTest, WhatAKilledProcessLeftIsRemovedByTheNextOne) {
  const fs::path left = killed([&] {
    const AtomicFolder folder(target(), false);
    write_file(folder.path() / "model.safetensors", "half");
    ::kill(::getpid(), SIGKILL);
  });
  EXPECT_EQ(read_file(left / "model.safetensors"), "half");
  const AtomicFolder folder(target(), false);
  EXPECT_THAT(folder.removed(), testing::ElementsAre(left));
  EXPECT_THAT(leftover_warnings(folder.removed()),
              testing::ElementsAre(left.string() + ": removed, left by a run that was killed"));
  EXPECT_EQ(entries(), 1U);
}

TEST_F(AtomicFolderTest, WhatAKilledProcessLeftOfAFileIsRemovedByTheNextOne) {
  const fs::path left = killed([&] {
    AtomicFile file(target(), false);
    file.output().write_at(0, "half");
    ::kill(::getpid(), SIGKILL);
  });
  EXPECT_EQ(read_file(left), "half");
  AtomicFile file(target(), false);
  EXPECT_THAT(file.removed(), testing::ElementsAre(left));
  file.output().write_at(0, "whole");
  file.commit();
  EXPECT_EQ(read_file(target()), "whole");
  EXPECT_EQ(entries(), 1U);
}

// Locks belong to descriptors, so that this process stands for two.
TEST_F(AtomicFolderTest, WhatALivingProcessWritesStays) {
  const fs::path other = target().string() + ".partial-1";
  fs::create_directory(other);
  const int lock = ::open(other.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  { EXPECT_TRUE(AtomicFolder(target(), false).removed().empty()); }
  EXPECT_TRUE(fs::exists(other));
  ::close(lock);
  EXPECT_THAT(AtomicFolder(target(), false).removed(), testing::ElementsAre(other));
}

TEST_F(AtomicFolderTest, FilesOfOtherNamesAreNoLeftovers) {
  for (const char* name :
       {"out.partial-", "out.partial-1x", "out2.partial-1", "out.partial-1.txt"}) {
    write_file(parent() / name, "");
  }
  EXPECT_TRUE(AtomicFolder(target(), false).removed().empty());
  EXPECT_EQ(entries(), 4U);
}

TEST_F(AtomicFolderTest, TwoAtOnceAreRefused) {
  const AtomicFolder first(target(), false);
  write_file(first.path() / "x", "1");
  EXPECT_THAT(refusal(target(), false), HasSubstr("in use by another process"));
  EXPECT_EQ(read_file(first.path() / "x"), "1");
}

TEST(OutputFile, WritesAtPlacesAndReservesSpace) {
  const TemporaryFolder folder;
  OutputFile file(folder.path() / "f");
  file.reserve(10);
  EXPECT_EQ(fs::file_size(folder.path() / "f"), 10U);
  file.write_at(6, "late");
  file.write_at(0, "early ");
  file.sync();
  EXPECT_EQ(read_file(folder.path() / "f"), "early late");
}

TEST(OutputFile, SaysHowMuchSpaceIsMissing) {
  const TemporaryFolder folder;
  OutputFile file(folder.path() / "f");
  const int64_t too_much = int64_t{1} << 60;
  EXPECT_THAT(message_of<Error>([&] { file.reserve(too_much); }),
              HasSubstr("f: 1152921504606846976 bytes are needed, the disk has "));
}

TEST(OutputFile, ThatCannotBeMadeIsNamed) {
  EXPECT_THAT(message_of<Error>([] { const OutputFile file("/proc/no/such"); }),
              HasSubstr("/proc/no/such: cannot be created: "));
}

}  // namespace
}  // namespace nibble
