#include "src/pipeline/recipe.h"

#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/node/convert.h>
#include <yaml-cpp/node/node.h>
#include <yaml-cpp/node/parse.h>
#include <yaml-cpp/node/type.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/config_fields.h"
#include "formats/json.h"
#include "quantizers/solvers/scale_search.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

struct SearchRow {
  ScaleSearch search;
  std::string_view name;
};
constexpr std::array<SearchRow, 3> kSearches = {{
    {ScaleSearch::kHessian, "hessian"},
    {ScaleSearch::kMse, "mse"},
    {ScaleSearch::kMinMax, "minmax"},
}};

constexpr std::array kFloatTypes = {Dtype::kF16, Dtype::kBF16, Dtype::kF32};

// Values as JSON and back. from_json throws nlohmann's or our own exception for a wrong type.
template <typename T>
Json value_json(const T& value) {
  return value;
}
Json value_json(const std::filesystem::path& path) { return path.string(); }
Json value_json(ScaleSearch search) { return scale_search_name(search); }
Json value_json(Dtype type) { return torch_dtype_name(type); }
template <typename T>
Json value_json(const std::optional<T>& value) {
  return value ? value_json(*value) : Json();
}

template <typename T>
void from_value(const Json& json, T& value) {
  constexpr bool is_text = std::is_same_v<T, std::string>;
  if (is_text && !json.is_string()) throw Error("", "expected text");
  if (std::is_same_v<T, bool> && !json.is_boolean()) throw Error("", "expected true or false");
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    if (!json.is_number_integer()) throw Error("", "expected a whole number");
    const bool fits = json.is_number_unsigned() ? std::in_range<T>(json.get<uint64_t>())
                                                : std::in_range<T>(json.get<int64_t>());
    if (!fits) throw Error("", "out of range");
  }
  if (std::is_floating_point_v<T> && !json.is_number()) throw Error("", "expected a number");
  value = json.get<T>();
}
void from_value(const Json& json, std::filesystem::path& path) {
  std::string text;
  from_value(json, text);
  path = text;
}
void from_value(const Json& json, std::vector<std::string>& values) {
  if (!json.is_array()) throw Error("", "expected a list");
  values.clear();
  for (const Json& item : json) from_value(item, values.emplace_back());
}
void from_value(const Json& json, ScaleSearch& search) {
  std::string name;
  from_value(json, name);
  search = scale_search_from_name(name);
}
void from_value(const Json& json, Dtype& type) {
  std::string name;
  from_value(json, name);
  const std::optional<Dtype> found = dtype_from_torch_name(name);
  if (!found) throw Error("", "unknown type", "expected float16, bfloat16 or float32");
  type = *found;
}
template <typename T>
void from_value(const Json& json, std::optional<T>& value) {
  if (json.is_null()) {
    value.reset();
  } else {
    from_value(json, value.emplace());
  }
}

// Visits fields to write them.
class Writer {
 public:
  template <typename T>
  void field(const char* name, T& value) {
    json_[name] = value_json(value);
  }
  void section(const char* name, const std::function<void(Writer&)>& visit) {
    Writer inner;
    visit(inner);
    json_[name] = std::move(inner.json_);
  }
  template <typename T, typename Visit>
  void list(const char* name, std::vector<T>& items, const Visit& visit) {
    Json array = Json::array();
    for (T& item : items) {
      Writer inner;
      visit(inner, item);
      array.push_back(std::move(inner.json_));
    }
    json_[name] = std::move(array);
  }
  Json take() && { return std::move(json_); }

 private:
  Json json_ = Json::object();
};

// Visits fields to read them; finish() refuses what no field asked for.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw Error(where_, "expected keys and values");
  }

  template <typename T>
  void field(const char* name, T& value) {
    const Json* found = find(name);
    if (found == nullptr) return;
    try {
      from_value(*found, value);
    } catch (const Error& error) {
      throw Error(where_ + ": " + name, shown(*found) + ": " + error.problem(), error.hint());
    } catch (const nlohmann::json::exception&) {
      throw Error(where_ + ": " + name, shown(*found) + " is out of range or of the wrong type");
    }
  }
  void section(const char* name, const std::function<void(Reader&)>& visit) {
    const Json* found = find(name);
    if (found == nullptr || found->is_null()) return;
    Reader inner(*found, where_ + ": " + name);
    visit(inner);
    inner.finish();
  }
  template <typename T, typename Visit>
  void list(const char* name, std::vector<T>& items, const Visit& visit) {
    const Json* found = find(name);
    if (found == nullptr) return;
    if (!found->is_array()) throw Error(where_ + ": " + name, "expected a list");
    items.clear();
    for (const Json& element : *found) {
      Reader inner(element, where_ + ": " + name + ": " + std::to_string(items.size() + 1));
      visit(inner, items.emplace_back());
      inner.finish();
    }
  }

  void finish() const {
    const std::vector<std::string> known(asked_.begin(), asked_.end());
    for (const auto& [key, value] : json_.items()) {
      if (asked_.contains(key)) continue;
      const std::string nearest = nearest_name(key, known);
      throw Error(where_, "unknown key '" + key + "'",
                  nearest.empty() ? "" : "did you mean '" + nearest + "'?");
    }
  }

 private:
  const Json* find(const char* name) {
    asked_.emplace(name);
    const auto found = json_.find(name);
    return found == json_.end() ? nullptr : &*found;
  }

  const Json& json_;
  std::string where_;
  std::set<std::string> asked_;
};

template <typename Fields>
void visit_choice(Fields& fields, LayerChoice& choice) {
  fields.field("scheme", choice.scheme.name);
  fields.field("bits", choice.scheme.bits);
  fields.field("group_size", choice.scheme.group_size);
  fields.field("symmetric", choice.scheme.symmetric);
  fields.field("double_quant", choice.scheme.double_quant);
  fields.field("solver", choice.solver);
  fields.field("substitute", choice.substitute);
}

// The one list of a recipe's keys.
template <typename Fields>
void visit_recipe(Fields& fields, Recipe& recipe) {
  fields.field("method", recipe.method);
  visit_choice(fields, recipe.layers);
  fields.field("transforms", recipe.transforms);
  fields.field("format", recipe.format);
  fields.field("include", recipe.include);
  fields.field("exclude", recipe.exclude);
  fields.list("rules", recipe.rules, [](auto& inner, Rule& rule) {
    inner.field("modules", rule.modules);
    inner.field("keep", rule.keep);
    visit_choice(inner, rule.choice);
  });
  fields.field("output_head_bits", recipe.output_head_bits);
  fields.field("dtype", recipe.dtype);
  fields.field("embeddings", recipe.embeddings);
  fields.field("requantize", recipe.requantize);
  fields.section("calibration", [&](auto& inner) {
    inner.field("dataset", recipe.calibration.dataset);
    inner.field("text_key", recipe.calibration.dataset_options.text_key);
    inner.field("samples", recipe.calibration.samples);
    inner.field("seq_len", recipe.calibration.seq_len);
    inner.field("seed", recipe.calibration.seed);
    inner.field("pack", recipe.calibration.pack);
    inner.field("overlap", recipe.overlap);
    inner.field("statistics", recipe.statistics);
  });
  fields.section("gptq", [&](auto& inner) {
    inner.field("act_order", recipe.gptq.act_order);
    inner.field("static_groups", recipe.gptq.static_groups);
    inner.field("damp", recipe.gptq.damp);
    inner.field("scale_search", recipe.gptq.search);
    inner.field("sweeps", recipe.sweeps);
  });
  fields.section("awq", [&](auto& inner) {
    inner.field("block_search", recipe.awq_block_search);
    inner.field("clip", recipe.transform_options.clip);
  });
  fields.section("smoothquant",
                 [&](auto& inner) { inner.field("alpha", recipe.transform_options.alpha); });
  fields.section("activations", [&](auto& inner) {
    inner.field("range", recipe.activation_range);
    inner.field("percentile", recipe.percentile);
  });
  fields.field("weight_range", recipe.weight_range);
  fields.field("true_sequential", recipe.true_sequential);
  fields.field("correct_past", recipe.correct_past);
  fields.field("guard", recipe.guard);
}

// Aliases let a few bytes of YAML stand for any number of values, or for a list that holds itself.
constexpr int kMostLevels = 32;
constexpr int kMostValues = 100'000;

class YamlReader {
 public:
  explicit YamlReader(std::string where) : where_(std::move(where)) {}

  Json read(const YAML::Node& node, int level = 0) {
    if (level > kMostLevels) fail("values inside each other in more than 32 levels");
    if (++values_ > kMostValues) fail("more than 100000 values");
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        return {};
      case YAML::NodeType::Sequence: {
        Json list = Json::array();
        for (const YAML::Node& item : node) list.push_back(read(item, level + 1));
        return list;
      }
      case YAML::NodeType::Map: {
        Json map = Json::object();
        for (const auto& pair : node) {
          const auto key = pair.first.as<std::string>();
          if (map.contains(key)) fail("key '" + key + "' stands there twice");
          map[key] = read(pair.second, level + 1);
        }
        return map;
      }
      case YAML::NodeType::Scalar:
        break;
    }
    return scalar(node);
  }

 private:
  static Json scalar(const YAML::Node& node) {
    auto text = node.as<std::string>();
    if (node.Tag() == "!") return text;  // quoted
    if (bool flag = false; YAML::convert<bool>::decode(node, flag)) return flag;
    if (int64_t number = 0; YAML::convert<int64_t>::decode(node, number)) return number;
    if (uint64_t number = 0; YAML::convert<uint64_t>::decode(node, number)) return number;
    if (double number = 0; YAML::convert<double>::decode(node, number)) return number;
    return text;
  }

  [[noreturn]] void fail(const std::string& problem) const { throw Error(where_, problem); }

  std::string where_;
  int values_ = 0;
};

void check_values(const Recipe& recipe, const std::string& where) {
  const auto in_range = [&](const char* key, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw Error(where + ": " + key, Json(value).dump() + " is out of range",
                "expected " + Json(low).dump() + " to " + Json(high).dump());
  };
  in_range("correct_past", recipe.correct_past.value_or(0), 0, 1);
  in_range("smoothquant: alpha", recipe.transform_options.alpha.value_or(0), 0, 1);
  in_range("activations: percentile", recipe.percentile, 50, 100);
  in_range("gptq: damp", recipe.gptq.damp, 1e-9, 1);
  in_range("gptq: sweeps", recipe.sweeps.value_or(0), 0, 100);
  in_range("calibration: samples", static_cast<double>(recipe.calibration.samples), 1, 1e9);
  in_range("calibration: seq_len", static_cast<double>(recipe.calibration.seq_len), 1, 1e9);
  if (recipe.dtype &&
      std::find(kFloatTypes.begin(), kFloatTypes.end(), *recipe.dtype) == kFloatTypes.end()) {
    throw Error(where + ": dtype", "is no type for dense tensors",
                "expected float16, bfloat16 or float32");
  }
}

}  // namespace

std::string_view scale_search_name(ScaleSearch search) {
  return std::find_if(kSearches.begin(), kSearches.end(),
                      [&](const SearchRow& row) { return row.search == search; })
      ->name;
}

ScaleSearch scale_search_from_name(const std::string& name) {
  for (const SearchRow& row : kSearches) {
    if (row.name == name) return row.search;
  }
  throw Error("--scale-search", "unknown search '" + name + "'", "known: hessian, mse, minmax");
}

Json to_json(const Recipe& recipe) {
  Recipe fields = recipe;  // the visitor serves readers too
  Writer writer;
  visit_recipe(writer, fields);
  return std::move(writer).take();
}

Recipe read_recipe(const std::filesystem::path& file) {
  const std::string where = file.string();
  std::ifstream stream(file);
  if (!stream || std::filesystem::is_directory(file))
    throw Error(where, "cannot be read", "is there such a file?");
  Json json;
  try {
    json = YamlReader(where).read(YAML::Load(stream));
  } catch (const YAML::Exception& error) {
    throw Error(where, error.what());
  }
  if (json.is_object() && json.contains("recipe") && json.contains("nibble")) {
    json = Json(json.at("recipe"));
  }
  Recipe recipe;
  Reader reader(json, where);
  visit_recipe(reader, recipe);
  reader.finish();
  check_values(recipe, where);
  for (std::filesystem::path* path :
       {&recipe.calibration.dataset, &recipe.statistics, &recipe.overlap}) {
    const std::filesystem::path beside = file.parent_path() / *path;
    if (!path->empty() && path->is_relative() && std::filesystem::exists(beside)) *path = beside;
  }
  return recipe;
}

}  // namespace nibble
