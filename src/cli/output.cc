#include "src/cli/output.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "src/cli/command.h"
#include "src/cli/interrupt.h"
#include "src/pipeline/progress.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::seconds kPlainInterval{10};

class ProgressLine {
 public:
  ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

  ~ProgressLine() { clear(); }

  void show(const ProgressEvent& event) {
    const auto now = Clock::now();
    if (event.stage != stage_) {
      stage_ = event.stage;
      start_ = now;
      first_done_ = event.done;
      last_shown_ = now;
    }
    const auto interval =
        terminal_ ? Clock::duration(kTerminalInterval) : Clock::duration(kPlainInterval);
    if (now - last_shown_ < interval) return;
    last_shown_ = now;
    const std::string text = describe(event, std::chrono::duration<double>(now - start_).count());
    if (terminal_) {
      clear();
      std::fprintf(stderr, "\r%s", text.c_str());
      shown_ = text.size();
      std::fflush(stderr);
    } else {
      print_message(text);
    }
  }

 private:
  static std::string amount(double value, const std::string& unit) {
    if (unit == "bytes") return format_bytes(static_cast<int64_t>(value));
    return format_number(value, 0) + " " + unit;
  }

  std::string describe(const ProgressEvent& event, double seconds) const {
    const double percent = 100.0 * static_cast<double>(event.done) /
                           static_cast<double>(std::max<int64_t>(event.total, 1));
    std::string text = event.stage + " " + format_number(percent, 0) + " %";
    const auto done = static_cast<double>(event.done - first_done_);
    if (done > 0 && seconds > 0) {
      const double rate = done / seconds;
      text += ", " + amount(rate, event.unit) + "/s, " +
              format_seconds(static_cast<double>(event.total - event.done) / rate) + " left";
    }
    if (!event.detail.empty()) text += "  " + event.detail;
    return text;
  }

  void clear() {
    if (!terminal_ || shown_ == 0) return;
    std::fprintf(stderr, "\r%s\r", std::string(shown_, ' ').c_str());
    std::fflush(stderr);
    shown_ = 0;
  }

  bool terminal_;
  std::string stage_;
  Clock::time_point start_;
  Clock::time_point last_shown_;
  int64_t first_done_ = 0;
  size_t shown_ = 0;
};

bool is_number(std::string_view cell) {
  return !cell.empty() && cell.find_first_not_of("0123456789.-+% ") == std::string_view::npos;
}

// Characters, not bytes: cells may hold UTF-8.
size_t width(std::string_view cell) {
  return static_cast<size_t>(std::count_if(cell.begin(), cell.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

}  // namespace

void print(const std::string& text) { std::printf("%s\n", text.c_str()); }

void print_json(const Json& json) {
  print(json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void finish_output() {
  const bool failed = std::ferror(stdout) != 0;
  if (std::fflush(stdout) != 0 || failed) {
    throw Error("standard output", std::string("cannot be written: ") + std::strerror(errno),
                "is the disk full?");
  }
}

void print_message(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

std::string format_number(double value, int decimals) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string format_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return format_number(value, decimals) + " " + kUnits[unit];
}

std::string format_seconds(double seconds) {
  if (seconds < 10) return format_number(seconds, 2) + " s";
  if (seconds < 120) return format_number(seconds, 0) + " s";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 7200) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole / 60 % 60) + " min";
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width(row[c]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - width(row[c]), ' ');
      line += is_number(row[c]) ? padding + row[c] : row[c] + padding;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += (text.empty() ? "" : "\n") + line;
  }
  return text;
}

Progress make_progress(const CommandLine& line) {
  if (line.quiet) return [](const ProgressEvent&) { throw_if_interrupted(); };
  auto shown = std::make_shared<ProgressLine>();
  return [shown](const ProgressEvent& event) {
    throw_if_interrupted();
    shown->show(event);
  };
}

}  // namespace nibble
