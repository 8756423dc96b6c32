// nibble inspect MODEL
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/inspect.h"

namespace nibble {
namespace {

void print_text(const Json& json) {
  print("architecture  " + json["architecture"].get<std::string>());
  print("parameters    " + std::to_string(json["parameters"].get<int64_t>()));
  print("bytes         " + format_bytes(json["bytes"].get<int64_t>()));
  if (json["quantization"].is_null()) {
    print("quantization  none");
  } else {
    print("quantization  " + json["quantization"]["format"].get<std::string>());
    for (const auto& [scheme, count] : json["quantization"]["modules"].items()) {
      print("              " + std::to_string(count.get<int64_t>()) + " x " + scheme);
    }
  }
  std::vector<std::vector<std::string>> rows = {{"tensor", "dtype", "shape", "bytes", "file"}};
  for (const Json& tensor : json["tensors"]) {
    rows.push_back({tensor["name"], tensor["dtype"], tensor["shape"].dump(),
                    std::to_string(tensor["bytes"].get<int64_t>()), tensor["file"]});
  }
  print(format_table(rows));
}

}  // namespace

void declare_inspect(CLI::App& command, CommandLine& line) {
  auto model = std::make_shared<std::string>();
  command.add_option("MODEL", *model, "model folder")->required();
  line.run = [model, &line] {
    const Json json = inspect(open_checkpoint(*model));
    if (line.json) {
      print_json(json);
    } else {
      print_text(json);
    }
    return kDone;
  };
}

}  // namespace nibble
