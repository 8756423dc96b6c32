// Where tests find files: data outside the repository (NIBBLE_TEST_DATA, optional), data inside it,
// and temporary folders.
#pragma once

#include <filesystem>
#include <string>

namespace nibble {

// The folder named by NIBBLE_TEST_DATA, or an empty path: then the test must GTEST_SKIP.
std::filesystem::path test_data();

// tests/data in the repository, or the folder named by NIBBLE_OWN_TEST_DATA: where tests were
// packed for another machine.
std::filesystem::path own_test_data();

// A fresh folder, removed by the destructor.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& bytes);

}  // namespace nibble

// First line of a test that needs data outside the repository.
#define NIBBLE_NEEDS_TEST_DATA()                                                   \
  if (nibble::test_data().empty()) {                                               \
    GTEST_SKIP() << "NIBBLE_TEST_DATA is not set: the reference data is not here"; \
  }
