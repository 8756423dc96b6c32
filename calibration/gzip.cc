#include "calibration/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <string_view>

#include "src/tensor/error.h"

namespace nibble {

namespace {

constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr size_t kChunk = size_t{1} << 18;
constexpr int kGzipWindow = 15 + 16;  // the largest window, gzip header required

// Owns the state of zlib.
class Inflater {
 public:
  explicit Inflater(const std::filesystem::path& file) : file_(file) {
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK)
      throw Error(file.string(), "zlib has no memory");
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Appends one member of `rest`, which moves behind it.
  void member(std::string_view& rest, std::string& text) {
    inflateReset(&stream_);
    stream_.avail_in = 0;
    for (int status = Z_OK; status != Z_STREAM_END;) {
      if (stream_.avail_in == 0) feed(rest);
      status = step(text);
    }
    rest = rest.substr(rest.size() - left_ - stream_.avail_in);
  }

 private:
  void feed(std::string_view rest) {
    if (left_ == kNotStarted) left_ = rest.size();
    if (left_ == 0) throw Error(file_.string(), "the gzip ends early", "incomplete download?");
    const size_t size = std::min(left_, size_t{std::numeric_limits<uInt>::max()});
    // zlib does not write to its input.
    stream_.next_in =
        reinterpret_cast<Bytef*>(const_cast<char*>(rest.data() + (rest.size() - left_)));
    stream_.avail_in = static_cast<uInt>(size);
    left_ -= size;
  }

  int step(std::string& text) {
    const size_t before = text.size();
    text.resize(before + kChunk);
    stream_.next_out = reinterpret_cast<Bytef*>(text.data() + before);
    stream_.avail_out = static_cast<uInt>(kChunk);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    text.resize(before + kChunk - stream_.avail_out);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      throw Error(file_.string(), std::string("not a sound gzip file: ") +
                                      (stream_.msg != nullptr ? stream_.msg : zError(status)));
    }
    if (text.size() > kMaxBytes) throw Error(file_.string(), "expands to more than 4 GiB");
    return status;
  }

  static constexpr size_t kNotStarted = std::numeric_limits<size_t>::max();
  const std::filesystem::path& file_;
  z_stream stream_{};
  size_t left_ = kNotStarted;  // bytes of the member's input not yet given to zlib
};

}  // namespace

std::string gunzip(std::string_view bytes, const std::filesystem::path& file) {
  if (bytes.empty()) throw Error(file.string(), "is empty");
  std::string text;
  while (!bytes.empty()) Inflater(file).member(bytes, text);
  return text;
}

}  // namespace nibble
