#include "tests/cli/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "formats/json.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

// In the child: streams to files, then the program.
[[noreturn]] void become_nibble(const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment, const std::string& out,
                                const std::string& err) {
  for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
  const int out_file = open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
  const int err_file = open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
  dup2(out_file, STDOUT_FILENO);
  dup2(err_file, STDERR_FILENO);
  std::vector<char*> argv = {const_cast<char*>("nibble")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(NIBBLE_PROGRAM, argv.data());
  _exit(127);
}

// As a full disk: writes beyond fail instead of raising a signal.
void limit_files(int64_t bytes) {
  const rlimit limit = {static_cast<rlim_t>(bytes), static_cast<rlim_t>(bytes)};
  setrlimit(RLIMIT_FSIZE, &limit);
  signal(SIGXFSZ, SIG_IGN);
}

// prepare: in the child, before the program. meanwhile: in the parent.
ProgramResult run_program(const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment,
                          const std::function<void()>& prepare,
                          const std::function<void(pid_t)>& meanwhile) {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out";
  const std::string err = folder.path() / "err";
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    prepare();
    become_nibble(arguments, environment, out, err);
  }
  meanwhile(child);
  int status = 0;
  waitpid(child, &status, 0);
  ProgramResult result;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(out);
  result.err = read_file(err);
  return result;
}

}  // namespace

ProgramResult run_nibble(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment, int64_t file_bytes) {
  const auto prepare = [file_bytes] {
    if (file_bytes > 0) limit_files(file_bytes);
  };
  return run_program(arguments, environment, prepare, [](pid_t) {});
}

ProgramResult run_nibble_with(const std::vector<std::string>& arguments,
                              const std::function<void(pid_t)>& meanwhile) {
  return run_program(
      arguments, {}, [] {}, meanwhile);
}

Json run_json(std::vector<std::string> arguments, int status) {
  arguments.emplace_back("--json");
  const ProgramResult result = run_nibble(arguments);
  EXPECT_EQ(result.status, status) << result.err << result.out;
  return parse_json(result.out, "stdout");
}

}  // namespace nibble
