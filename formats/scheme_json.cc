#include "formats/scheme_json.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/config_fields.h"
#include "formats/json.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr int64_t kLargestBlock = int64_t{1} << 40;  // keeps products of sizes far from overflow

// JSON has no NaN or infinity: E4M3's table has NaN.
Json float_to_json(float value) {
  if (std::isnan(value)) return std::signbit(value) ? "-nan" : "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  return value;
}

float float_from_json(const Json& json, const std::string& where) {
  if (json.is_number()) return json.get<float>();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [name, value] : {std::pair<std::string_view, float>{"nan", kNan},
                                    {"-nan", -kNan},
                                    {"inf", kInfinity},
                                    {"-inf", -kInfinity}}) {
    if (json == name) return value;
  }
  throw Error(where, "a table has an entry that is no number");
}

Json table_to_json(const std::vector<float>& table) {
  Json json = Json::array();
  for (const float value : table) json.push_back(float_to_json(value));
  return json;
}

std::vector<float> table_from_json(const Json& json, size_t size, const std::string& where) {
  if (!json.is_array() || json.size() != size) {
    throw Error(where, "a table has not " + std::to_string(size) + " entries");
  }
  std::vector<float> table;
  for (const Json& entry : json) table.push_back(float_from_json(entry, where));
  return table;
}

// Keys of an object, each of which must be taken.
class Fields {
 public:
  Fields(const Json& json, std::initializer_list<std::string_view> known, std::string where)
      : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw Error(where_, "not an object");
    for (const auto& [key, value] : json.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        throw Error(where_, "unknown field '" + key + "'", "written by a newer version?");
      }
    }
  }

  bool has(std::string_view key) const { return json_.contains(std::string(key)); }
  const Json& at(std::string_view key) const { return json_.at(std::string(key)); }
  const std::string& where() const { return where_; }

  int64_t integer(std::string_view key, int64_t fallback, int64_t low, int64_t high) const {
    const int64_t value = integer_field(json_, key, where_).value_or(fallback);
    if (value < low || value > high) {
      throw Error(where_, "'" + std::string(key) + "' is " + std::to_string(value) + ", expected " +
                              std::to_string(low) + " to " + std::to_string(high));
    }
    return value;
  }
  bool flag(std::string_view key, bool fallback) const {
    return bool_field(json_, key, where_).value_or(fallback);
  }
  std::string text(std::string_view key) const {
    return string_field(json_, key, where_).value_or("");
  }
  Dtype dtype(std::string_view key) const {
    const auto dtype = dtype_from_name(text(key));
    if (!dtype) throw Error(where_, "'" + std::string(key) + "' is no element type");
    return *dtype;
  }
  // A positive number of rows, columns or parameters, or one of the names.
  int64_t size(std::string_view key, int64_t fallback) const {
    if (!has(key)) return fallback;
    if (at(key) == "all") return kAll;
    if (at(key) == "row") return kOneRow;
    return integer(key, 0, 1, kLargestBlock);
  }

 private:
  const Json& json_;
  std::string where_;
};

Json size_to_json(int64_t size) {
  if (size == kAll) return "all";
  if (size == kOneRow) return "row";
  return size;
}

constexpr std::string_view kKinds[] = {"integer", "table", "codebook"};

Json grid_to_json(const Grid& grid) {
  Json json;
  json["kind"] = kKinds[static_cast<size_t>(grid.kind)];
  json["bits"] = grid.bits;
  if (grid.lowest != 0) json["lowest"] = grid.lowest;
  if (!grid.name.empty()) json["name"] = grid.name;
  if (!grid.table.empty()) json["table"] = table_to_json(grid.table);
  return json;
}

Grid grid_from_json(const Json& json, const std::string& where) {
  const Fields fields(json, {"kind", "bits", "lowest", "name", "table"}, where + ": grid");
  const auto kind = std::find(std::begin(kKinds), std::end(kKinds), fields.text("kind"));
  if (kind == std::end(kKinds)) throw Error(fields.where(), "unknown 'kind'");
  Grid grid;
  grid.kind = static_cast<Grid::Kind>(kind - std::begin(kKinds));
  grid.bits = static_cast<int>(fields.integer("bits", 0, 1, 8));
  grid.lowest = static_cast<int>(fields.integer("lowest", 0, -256, 256));
  grid.name = fields.text("name");
  if ((grid.kind == Grid::Kind::kTable) != fields.has("table")) {
    throw Error(fields.where(), "a table belongs to the kind 'table', and to no other");
  }
  if (fields.has("table")) {
    grid.table = table_from_json(fields.at("table"), size_t{1} << grid.bits, fields.where());
  }
  return grid;
}

Json blocking_to_json(const Blocking& blocking) {
  Json json;
  json["rows"] = size_to_json(blocking.rows);
  json["columns"] = size_to_json(blocking.columns);
  if (blocking.flattened) json["flattened"] = true;
  return json;
}

Blocking blocking_from_json(const Json& json, const std::string& where) {
  const Fields fields(json, {"rows", "columns", "flattened"}, where + ": blocking");
  const Blocking blocking = {.rows = fields.size("rows", 1),
                             .columns = fields.size("columns", kAll),
                             .flattened = fields.flag("flattened", false)};
  if (blocking.rows == kOneRow || blocking.columns == kOneRow ||
      (blocking.flattened && blocking.columns == kAll)) {
    throw Error(fields.where(), "sizes that make no blocks");
  }
  return blocking;
}

Json second_to_json(const SecondLevel& second) {
  Json json;
  json["type"] = dtype_name(second.type);
  json["block"] = size_to_json(second.block);
  if (second.divides) json["divides"] = true;
  if (second.has_offset) json["has_offset"] = true;
  return json;
}

SecondLevel second_from_json(const Json& json, const std::string& where) {
  const Fields fields(json, {"type", "block", "divides", "has_offset"}, where + ": second");
  const SecondLevel second = {.type = fields.dtype("type"),
                              .block = fields.size("block", kAll),
                              .divides = fields.flag("divides", false),
                              .has_offset = fields.flag("has_offset", false)};
  if (!is_float(second.type)) throw Error(fields.where(), "'type' is no float type");
  return second;
}

Json parameter_to_json(const Parameter& parameter) {
  Json json;
  json["type"] = dtype_name(parameter.type);
  json["bits"] = parameter.bits;
  if (!parameter.table.empty()) json["table"] = table_to_json(parameter.table);
  if (parameter.second) json["second"] = second_to_json(*parameter.second);
  return json;
}

Parameter parameter_from_json(const Json& json, const std::string& where) {
  const Fields fields(json, {"type", "bits", "table", "second"}, where);
  Parameter parameter;
  parameter.type = fields.dtype("type");
  if (!is_float(parameter.type) && parameter.type != Dtype::kU8 && parameter.type != Dtype::kI8) {
    throw Error(where, "'type' is neither a float type nor U8 nor I8");
  }
  parameter.bits = static_cast<int>(fields.integer("bits", 0, 1, dtype_bits(parameter.type)));
  if (fields.has("table")) {
    if (parameter.type != Dtype::kU8) throw Error(where, "a table needs the type U8");
    parameter.table = table_from_json(fields.at("table"), size_t{1} << parameter.bits, where);
  }
  if (fields.has("second")) parameter.second = second_from_json(fields.at("second"), where);
  return parameter;
}

Json activations_to_json(const ActivationScheme& activations) {
  Json json;
  json["bits"] = activations.bits;
  json["symmetric"] = activations.symmetric;
  json["dynamic"] = activations.dynamic;
  json["per_token"] = activations.per_token;
  if (activations.is_float) json["is_float"] = true;
  if (activations.columns != kAll) json["columns"] = activations.columns;
  if (activations.divides) json["divides"] = true;
  return json;
}

ActivationScheme activations_from_json(const Json& json, const std::string& where) {
  const Fields fields(
      json, {"bits", "symmetric", "dynamic", "per_token", "is_float", "columns", "divides"},
      where + ": activations");
  return {.bits = static_cast<int>(fields.integer("bits", 8, 1, 16)),
          .symmetric = fields.flag("symmetric", true),
          .dynamic = fields.flag("dynamic", true),
          .per_token = fields.flag("per_token", true),
          .is_float = fields.flag("is_float", false),
          .columns = fields.has("columns") ? fields.integer("columns", 0, 1, kLargestBlock) : kAll,
          .divides = fields.flag("divides", false)};
}

std::optional<Parameter> optional_parameter(const Fields& fields, std::string_view key) {
  if (!fields.has(key)) return std::nullopt;
  return parameter_from_json(fields.at(key), fields.where() + ": " + std::string(key));
}

}  // namespace

Json scheme_to_json(const Scheme& scheme) {
  Json json;
  json["grid"] = grid_to_json(scheme.grid);
  json["blocking"] = blocking_to_json(scheme.blocking);
  if (scheme.scale) json["scale"] = parameter_to_json(*scheme.scale);
  if (scheme.zero) json["zero"] = parameter_to_json(*scheme.zero);
  if (scheme.minimum) json["minimum"] = parameter_to_json(*scheme.minimum);
  if (scheme.codebook_blocking != Blocking{}) {
    json["codebook_blocking"] = blocking_to_json(scheme.codebook_blocking);
  }
  if (scheme.activations) json["activations"] = activations_to_json(*scheme.activations);
  return json;
}

Scheme scheme_from_json(const Json& json, const std::string& where) {
  const Fields fields(
      json, {"grid", "blocking", "scale", "zero", "minimum", "codebook_blocking", "activations"},
      where);
  for (const char* key : {"grid", "blocking"}) {
    if (!fields.has(key)) throw Error(where, "no '" + std::string(key) + "'");
  }
  Scheme scheme;
  scheme.grid = grid_from_json(fields.at("grid"), where);
  scheme.blocking = blocking_from_json(fields.at("blocking"), where);
  scheme.scale = optional_parameter(fields, "scale");
  scheme.zero = optional_parameter(fields, "zero");
  scheme.minimum = optional_parameter(fields, "minimum");
  if (fields.has("codebook_blocking")) {
    scheme.codebook_blocking = blocking_from_json(fields.at("codebook_blocking"), where);
  }
  if (fields.has("activations")) {
    scheme.activations = activations_from_json(fields.at("activations"), where);
  }
  return scheme;
}

}  // namespace nibble
