// AtomicFolder and AtomicFile: what appears under its name whole, or not at all. They own a
// temporary folder or file beside the target, "<name>.partial-<pid>", which commit renames and the
// destructor removes. It is locked meanwhile: whoever writes the same target next removes those
// that are not, which processes left that were killed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// A sentence for each of AtomicFile's or AtomicFolder's removed().
std::vector<std::string> leftover_warnings(const std::vector<std::filesystem::path>& removed);

// Owns a file descriptor opened for writing.
class OutputFile {
 public:
  OutputFile() = default;
  // Creates the file or empties it. Throws Error.
  explicit OutputFile(std::filesystem::path file);
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  // Makes the file this long, with the disk space for it. Throws Error that says how much is
  // missing.
  void reserve(int64_t bytes);
  // Throws Error when the disk refuses. Thread-safe for ranges that do not overlap.
  void write_at(int64_t offset, std::string_view bytes);
  // Waits until the bytes are on the disk. Throws Error.
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

class AtomicFile {
 public:
  // Throws Error when the target exists and is not to be replaced or is no regular file, when its
  // parent cannot be written, and when another process of this number writes it (on another
  // machine).
  AtomicFile(const std::filesystem::path& target, bool replace);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::filesystem::path& target() const { return target_; }
  // Where the file is until commit.
  const std::filesystem::path& path() const { return output_.path(); }
  OutputFile& output() { return output_; }
  // Leftovers of killed processes, which are gone now.
  const std::vector<std::filesystem::path>& removed() const { return removed_; }

  // Syncs and renames. Throws Error; the target is then as it was.
  void commit();

 private:
  std::filesystem::path target_;
  std::vector<std::filesystem::path> removed_;
  int lock_;  // descriptor of path()
  OutputFile output_;
  bool open_ = true;
};

class AtomicFolder {
 public:
  // Throws Error when the target exists (an empty folder is allowed) and is not to be replaced,
  // when it is to be replaced but does not look like a model's folder, when its parent cannot be
  // written, and when another process of this number writes it (on another machine).
  AtomicFolder(const std::filesystem::path& target, bool replace);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& target() const { return target_; }
  // Where the files are until commit.
  const std::filesystem::path& path() const { return path_; }
  // As of AtomicFile.
  const std::vector<std::filesystem::path>& removed() const { return removed_; }

  // The files must be on the disk. Exchanges the folder with the target in one step where the file
  // system can, and then removes the old one. Throws Error; the target is then as it was.
  void commit();
  void abandon() noexcept;

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  std::vector<std::filesystem::path> removed_;
  bool replace_;
  bool open_ = true;  // path_ is ours
  int lock_ = -1;     // descriptor of path_
};

}  // namespace nibble
