// The program: parses, runs one command, prints errors. Exit status 0 done, 1 a quality gate
// failed, 2 error.
#include <omp.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "src/cli/command.h"
#include "src/cli/interrupt.h"
#include "src/cli/output.h"
#include "src/pipeline/version.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// What the run-time libraries read before main, set by starting the program once more. A user's own
// setting stands; without /proc the program runs all the same, only slower.
//   OpenMP's waiting threads spin by default, which makes a program beside another busy process
//   many times slower than one thread. Large matrices in pages of 4 KB make products wait for
//   addresses: huge ones take a tenth off GPTQ.
void set_up_libraries(char** argv) {
  constexpr const char* kPolicy = "OMP_WAIT_POLICY";
  constexpr const char* kTunables = "GLIBC_TUNABLES";
  bool changed = false;
  if (std::getenv(kPolicy) == nullptr && std::getenv("GOMP_SPINCOUNT") == nullptr) {
    changed = setenv(kPolicy, "passive", 1) == 0;
  }
  if (std::getenv(kTunables) == nullptr) {
    changed = setenv(kTunables, "glibc.malloc.hugetlb=1", 1) == 0 || changed;
  }
  if (changed) execv("/proc/self/exe", argv);
}

void print_error(const CommandLine& line, const Error& error) {
  if (line.json) {
    print_json(
        {{"error",
          {{"message", error.problem()}, {"where", error.where()}, {"hint", error.hint()}}}});
  } else {
    print_message("error: " + std::string(error.what()));
  }
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(name, known);
  return nearest.empty() ? "see --help" : "did you mean '" + nearest + "'?";
}

// Names a command that does not exist, with the nearest that does.
void check_command_name(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> known;
  for (const Command& command : commands()) {
    if (command.name == argv[1]) return;
    known.emplace_back(command.name);
  }
  throw Error("nibble", "unknown command '" + std::string(argv[1]) + "'",
              did_you_mean(argv[1], known));
}

// With the nearest option.
Error unknown_argument(const CLI::App& app, const std::string& name) {
  std::vector<std::string> known;
  for (const CLI::App* command : app.get_subcommands()) {
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& long_name : option->get_lnames()) known.push_back("--" + long_name);
    }
  }
  return {name, "unexpected argument", did_you_mean(name, known)};
}

// The chosen command's function; CommandLine::run is set by whichever subcommand was parsed.
void declare_commands(CLI::App& app, CommandLine& line) {
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(kVersion));
  for (const Command& command : commands()) {
    CLI::App* sub = app.add_subcommand(std::string(command.name), std::string(command.summary));
    command.declare(*sub, line);
    sub->add_flag("--json", line.json, "one JSON object on stdout");
    sub->add_flag("-q,--quiet", line.quiet, "no progress");
    sub->add_option("--threads", line.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, 1024));
    sub->callback([run = line.run, &line] { line.run = run; });
  }
}

int parse_and_run(int argc, char** argv, CommandLine& line) {
  check_command_name(argc, argv);
  CLI::App app("nibble: post-training quantization of language models", "nibble");
  declare_commands(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    // Also where CLI11 misses another option: this one may be it, misspelled.
    const std::vector<std::string> unknown = app.remaining(true);
    if (!unknown.empty()) throw unknown_argument(app, unknown.front());
    throw Error("arguments", error.what(), "see --help");
  }
  if (line.threads > 0) omp_set_num_threads(line.threads);
  return line.run();
}

int run_program(int argc, char** argv) {
  CommandLine line;
  for (int i = 1; i < argc; ++i) line.json = line.json || std::string_view(argv[i]) == "--json";
  try {
    const int status = parse_and_run(argc, argv, line);
    finish_output();
    return status;
  } catch (const Interrupted& interrupted) {
    print_message("interrupted; unfinished output is removed");
    end_by(interrupted);
  } catch (const Error& error) {
    print_error(line, error);
  } catch (const std::bad_alloc&) {
    print_error(line, Error("", "out of memory", "try a smaller --seq-len or fewer --threads"));
  } catch (const std::exception& error) {
    print_error(line, Error("", error.what()));
  }
  return kFailed;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::set_up_libraries(argv);
  nibble::catch_interrupts();
  return nibble::run_program(argc, argv);
}
