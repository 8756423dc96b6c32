// nibble list [TABLE]: the program's tables, also as the README shows them.
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/format.h"
#include "formats/json.h"
#include "quantizers/solvers/solvers.h"
#include "quantizers/transforms/transforms.h"
#include "src/architecture/architecture.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/pipeline/layer_scheme.h"
#include "src/pipeline/method.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows list_methods() {
  Rows rows = {{"method", "what it does", "solver", "calibration", "source"}};
  for (const Method& m : methods()) {
    rows.push_back({std::string(m.name), std::string(m.summary), std::string(m.solver),
                    m.needs_calibration ? "needed" : "none", std::string(m.source)});
  }
  return rows;
}

Rows list_solvers() {
  Rows rows = {{"solver", "what it does", "source"}};
  for (const Solver& s : solvers()) {
    rows.push_back({std::string(s.name), std::string(s.summary), std::string(s.source)});
  }
  return rows;
}

Rows list_transforms() {
  Rows rows = {{"transform", "what it does", "source"}};
  for (const Transform& t : transforms()) {
    rows.push_back({std::string(t.name), std::string(t.summary), std::string(t.source)});
  }
  return rows;
}

Rows list_schemes() {
  Rows rows = {{"scheme", "what it is", "format"}};
  for (const NamedScheme& s : named_schemes()) {
    rows.push_back({std::string(s.name), std::string(s.summary), std::string(s.format)});
  }
  return rows;
}

Rows list_formats() {
  Rows rows = {{"format", "what it is", "holds", "read by"}};
  for (const Format& f : formats()) {
    rows.push_back({std::string(f.name), std::string(f.summary), std::string(f.holds),
                    std::string(f.readers)});
  }
  return rows;
}

Rows list_architectures() {
  Rows rows = {{"architecture", "class", "models"}};
  for (const Architecture& a : architectures()) {
    rows.push_back({std::string(a.model_type), std::string(a.name), std::string(a.models)});
  }
  return rows;
}

struct Table {
  std::string_view name;
  Rows (*rows)();
};
constexpr std::array<Table, 6> kTables = {{
    {"methods", list_methods},
    {"solvers", list_solvers},
    {"transforms", list_transforms},
    {"schemes", list_schemes},
    {"formats", list_formats},
    {"architectures", list_architectures},
}};

std::string markdown(const Rows& rows) {
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line = "|";
    for (const std::string& cell : rows[r]) line += " " + cell + " |";
    text += (r == 0 ? "" : "\n") + line;
    if (r > 0) continue;
    text += "\n|";
    for (size_t c = 0; c < rows[r].size(); ++c) text += "--|";
  }
  return text;
}

Json as_json(const Rows& rows) {
  Json json = Json::array();
  for (size_t r = 1; r < rows.size(); ++r) {
    Json object;
    for (size_t c = 0; c < rows[r].size(); ++c) object[rows[0][c]] = rows[r][c];
    json.push_back(std::move(object));
  }
  return json;
}

std::vector<Table> chosen(const std::string& name) {
  if (name.empty()) return {kTables.begin(), kTables.end()};
  std::vector<std::string> known;
  for (const Table& table : kTables) {
    if (table.name == name) return {table};
    known.emplace_back(table.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("list", "unknown table '" + name + "'",
              nearest.empty()
                  ? "known: methods, solvers, transforms, schemes, formats, architectures"
                  : "did you mean '" + nearest + "'?");
}

int run(const std::string& name, bool as_markdown, const CommandLine& line) {
  Json json;
  bool first = true;
  for (const Table& table : chosen(name)) {
    const Rows rows = table.rows();
    if (line.json) {
      json[std::string(table.name)] = as_json(rows);
      continue;
    }
    if (!first) print("");
    print(as_markdown ? markdown(rows) : format_table(rows));
    first = false;
  }
  if (line.json) print_json(json);
  return kDone;
}

}  // namespace

void declare_list(CLI::App& command, CommandLine& line) {
  struct ListArguments {
    std::string table;
    bool as_markdown = false;
  };
  auto typed = std::make_shared<ListArguments>();
  command.add_option(
      "TABLE", typed->table,
      "methods, solvers, transforms, schemes, formats or architectures; all without it");
  command.add_flag("--markdown", typed->as_markdown, "as a Markdown table");
  line.run = [typed, &line] { return run(typed->table, typed->as_markdown, line); };
}

}  // namespace nibble
