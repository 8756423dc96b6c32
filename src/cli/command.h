// Commands: each declares its options on a CLI11 subcommand (no effects) and leaves a function that
// runs it. CLI11 appears in src/cli only.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <span>
#include <string_view>

namespace nibble {

// What every command has.
struct CommandLine {
  bool json = false;         // one JSON object on stdout
  bool quiet = false;        // no progress
  int threads = 0;           // 0: OpenMP's default
  std::function<int()> run;  // of the command that was parsed; returns the exit status
};

struct Command {
  std::string_view name;
  std::string_view summary;
  void (*declare)(CLI::App& command, CommandLine& line);
};

// In the order shown to users.
std::span<const Command> commands();

void declare_quantize(CLI::App& command, CommandLine& line);
void declare_calibrate(CLI::App& command, CommandLine& line);
void declare_evaluate(CLI::App& command, CommandLine& line);
void declare_export(CLI::App& command, CommandLine& line);
void declare_inspect(CLI::App& command, CommandLine& line);
void declare_verify(CLI::App& command, CommandLine& line);
void declare_generate(CLI::App& command, CommandLine& line);
void declare_bench(CLI::App& command, CommandLine& line);
void declare_list(CLI::App& command, CommandLine& line);

inline constexpr int kDone = 0;
inline constexpr int kGateFailed = 1;
inline constexpr int kFailed = 2;

}  // namespace nibble
