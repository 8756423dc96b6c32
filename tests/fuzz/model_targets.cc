// What the pipeline reads: whole models, and the files beside them.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/stats.h"
#include "formats/checkpoint.h"
#include "formats/json.h"
#include "formats/manifest.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/fingerprint.h"
#include "src/pipeline/inspect.h"
#include "src/pipeline/recipe.h"
#include "src/pipeline/saved_statistics.h"
#include "src/pipeline/verify.h"
#include "src/tensor/matrix.h"
#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// ---- a model ------------------------------------------------------------------------------------

void run_model(std::string_view input) {
  const auto files = files_of(input, 3);
  scratch("model/config.json", files[0]);
  scratch("model/model.safetensors", safetensors_of(files[1], files[2]));
  const fs::path folder = scratch_folder() / "model";
  verify(folder, {});
  inspect(Checkpoint::open(folder)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::string> model_seeds() {
  const std::string weights = input_of_safetensors(tiny_safetensors());
  std::vector<std::string> seeds = {input_of({tiny_config().dump(), weights})};
  for (const char* folder : {"data/tiny", "data/peers"}) {
    for (const std::string& config : stored_files({folder}, ".json")) {
      seeds.push_back(input_of({config, weights}));
    }
  }
  return seeds;
}

// ---- nibble.json --------------------------------------------------------------------------------

void run_manifest(std::string_view input) {
  scratch("manifest/config.json", "{}");
  scratch("manifest/weights", "weights");
  const fs::path file = scratch("manifest/nibble.json", input);
  const Json manifest = read_json(file);
  Findings findings;
  if (manifest.is_object()) check_files(file.parent_path(), manifest, 1, findings);
}

std::vector<std::string> manifest_seeds() {
  run_manifest("{}");  // makes the folder
  const Json files = files_to_json(hash_files(scratch_folder() / "manifest", 1));
  return {Json{{"nibble", "0.1.0"}, {"recipe", to_json(Recipe{})}, {"files", files}}.dump()};
}

// ---- statistics ---------------------------------------------------------------------------------

// The model that they are of.
const Checkpoint& statistics_model() {
  static const Checkpoint kModel = [] {
    scratch("statistics-model/config.json", tiny_config().dump());
    scratch("statistics-model/model.safetensors", tiny_safetensors());
    return Checkpoint::open(scratch_folder() / "statistics-model");
  }();
  return kModel;
}

void run_statistics(std::string_view input) {
  const auto files = files_of(input, 2);
  const fs::path file = scratch("statistics/stats.safetensors", safetensors_of(files[0], files[1]));
  const Config config = read_config(statistics_model().config(), "config.json");
  for (const bool hold_out : {false, true}) {
    SavedStatistics statistics(file, statistics_model(), config, hold_out);
    statistics.enter(0);
    for (const InputGroup group : kBlockGroups) statistics.collect(group);
  }
}

std::vector<std::string> statistics_seeds() {
  const Config config = read_config(statistics_model().config(), "config.json");
  const fs::path file = scratch_folder() / "seed.safetensors";
  std::vector<std::string> seeds;
  for (const bool histograms : {false, true}) {
    StatisticsOrigin origin;
    origin.model = to_text(hash_of(statistics_model()));
    origin.windows = 8;
    origin.seq_len = 4;
    origin.held_out = histograms ? 0 : 1;
    StatisticsWriter writer(file, config, origin, {.histograms = histograms, .replace = true});
    for (const InputGroup group : kBlockGroups) {
      const int64_t K = input_width(config, group);
      const InputStatistics statistics = {.tokens = 28,
                                          .H = Matrix::Identity(K, K),
                                          .mean_absolute = Vector::Ones(K),
                                          .largest = Vector::Ones(K),
                                          .histogram = {}};
      writer.write(0, group, false, statistics);
      if (origin.held_out > 0) writer.write(0, group, true, statistics);
    }
    writer.finish();
    seeds.push_back(input_of_safetensors(read_file(file)));
  }
  return seeds;
}

// ---- recipes ------------------------------------------------------------------------------------

void run_recipe(std::string_view input) { read_recipe(scratch("recipe.yaml", input)); }

std::vector<std::string> recipe_seeds() {
  Recipe recipe;
  recipe.rules.push_back({.modules = "down_proj", .keep = false, .choice = {}});
  return {to_json(recipe).dump(1), Json{{"nibble", "0.1.0"}, {"recipe", to_json(recipe)}}.dump(),
          "method: gptq\nbits: 3\ngroup_size: 64\nsymmetric: no\ntransforms: [awq]\nrules:\n"
          "  - modules: down_proj\n    bits: 4\n  - modules: \"lm_head\"\n    keep: true\n"
          "calibration: {dataset: x.txt, samples: 8}\ngptq:\n  damp: 1e-2\n  act_order: true\n"
          "base: &a [1, 2]\ninclude: *a\n"};
}

}  // namespace

const FuzzTarget kModelTarget = {.name = "model",
                                 .reads = "config.json and the weights of a model",
                                 .run = run_model,
                                 .seeds = model_seeds};
const FuzzTarget kManifestTarget = {
    .name = "manifest", .reads = "nibble.json", .run = run_manifest, .seeds = manifest_seeds};
const FuzzTarget kStatisticsTarget = {.name = "statistics",
                                      .reads = "statistics of nibble calibrate",
                                      .run = run_statistics,
                                      .seeds = statistics_seeds};
const FuzzTarget kRecipeTarget = {
    .name = "recipe", .reads = "a recipe, YAML or JSON", .run = run_recipe, .seeds = recipe_seeds};

}  // namespace nibble
