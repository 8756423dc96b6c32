// nibble verify DIR
#include <cstddef>
#include <memory>
#include <string>

#include "formats/json.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/pipeline/verify.h"

namespace nibble {
namespace {

Json verify_json(const VerifyReport& report) {
  Json json = {{"ok", report.problems.empty()},
               {"format", report.format.empty() ? Json() : Json(report.format)},
               {"modules", report.modules},
               {"tensors", report.tensors},
               {"weight_files", report.weight_files},
               {"files_compared", report.files_compared},
               {"problems", Json::array()}};
  for (const VerifyProblem& problem : report.problems) {
    json["problems"].push_back(
        {{"file", problem.file}, {"tensor", problem.tensor}, {"problem", problem.problem}});
  }
  return json;
}

std::string line_of(const VerifyProblem& problem) {
  std::string line = problem.file;
  if (!problem.tensor.empty()) line += (line.empty() ? "'" : ": '") + problem.tensor + "'";
  return line + (line.empty() ? "" : ": ") + problem.problem;
}

void print_text(const VerifyReport& report) {
  for (const VerifyProblem& problem : report.problems) print(line_of(problem));
  const size_t count = report.problems.size();
  std::string what = report.format.empty() ? "not quantized"
                                           : report.format + ", " + std::to_string(report.modules) +
                                                 " quantized layers";
  what += ", " + std::to_string(report.tensors) + " tensors in " +
          std::to_string(report.weight_files) + (report.weight_files == 1 ? " file" : " files") +
          (report.files_compared == 0
               ? ", no manifest"
               : ", manifest of " + std::to_string(report.files_compared) + " files");
  if (count == 0) {
    print("sound: " + what);
  } else {
    print(std::to_string(count) + (count == 1 ? " problem: " : " problems: ") + what);
  }
}

}  // namespace

void declare_verify(CLI::App& command, CommandLine& line) {
  auto path = std::make_shared<std::string>();
  command.add_option("PATH", *path, "model folder, safetensors or GGUF file")->required();
  line.run = [path, &line] {
    const VerifyReport report = verify(*path, make_progress(line));
    if (line.json) {
      print_json(verify_json(report));
    } else {
      print_text(report);
    }
    return report.problems.empty() ? kDone : kGateFailed;
  };
}

}  // namespace nibble
