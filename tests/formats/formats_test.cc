// Every row of the format table: what it announces is what it writes, what it does not refuse comes
// back bit for bit, and codes move between formats unchanged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Sample {
  int64_t N = 0, K = 0;
  bool column_groups = false;
};

struct Case {
  Scheme scheme;
  std::vector<Sample> samples;
};

// Integer schemes over bits, symmetry, groups (also ragged), scale types and shapes.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {int64_t{32}, int64_t{64}, kAll, int64_t{40}}) {
        for (const Dtype scale : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
          const Scheme scheme = integer_scheme(bits, group, symmetric, scale);
          all.push_back(
              {scheme, {{64, 128}, {64, 128, group != kAll}, {24, 96}, {24, 80}, {3, 70}}});
        }
      }
      all.push_back({integer_scheme(bits, kAll, symmetric, Dtype::kF16, true), {{32, 64}}});
    }
  }
  for (const int64_t block : {32, 64, 4096}) {
    for (const bool nested : {false, true}) {
      for (const Scheme& scheme : {nf4_scheme(block, nested), fp4_scheme(block, nested)}) {
        all.push_back({scheme, {{64, 128}, {24, 96}, {24, 80}, {3, 71}}});
      }
    }
  }
  for (const Dtype scale : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    for (const Blocking& blocking : {Blocking{}, Blocking{.rows = kAll, .columns = kAll},
                                     Blocking{.rows = 128, .columns = 128}}) {
      Scheme scheme = fp8_scheme(blocking, scale);
      all.push_back({scheme, {{64, 128}, {200, 300}, {3, 70}}});
      scheme.activations = {.is_float = true};
      all.push_back({scheme, {{64, 128}, {200, 300}, {3, 70}}});
      scheme.activations->columns = 128;
      all.push_back({scheme, {{64, 128}, {200, 300}, {3, 70}}});
      scheme.activations = {.dynamic = false, .per_token = false, .is_float = true};
      all.push_back({scheme, {{64, 128}, {200, 300}, {3, 70}}});
    }
  }
  for (const bool divides : {true, false}) {
    Scheme scheme = nvfp4_scheme(divides);
    all.push_back({scheme, {{64, 128}, {3, 48}, {3, 70}}});
    scheme.activations = {
        .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group, .divides = divides};
    all.push_back({scheme, {{64, 128}, {3, 48}, {3, 70}}});
  }
  for (const GgmlScheme& row : ggml_schemes()) {
    all.push_back({row.scheme, {{64, 256}, {3, 512}, {5, 768}, {3, 96}, {3, 70}}});
  }
  return all;
}

// A layer that the format holds: integers of 4 bits wherever it can.
QuantizedLinear usual_layer(const Format& row, int64_t N, int64_t K) {
  const bool is_table = row.name == "bitsandbytes";
  const Scheme integers = integer_scheme(4, 32, false, Dtype::kF16);
  Scheme fp8 = fp8_scheme({.rows = kAll, .columns = kAll}, Dtype::kF32);
  fp8.activations = {.is_float = true};
  Scheme nvfp4 = nvfp4_scheme(false);
  nvfp4.activations = {.bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group};
  const Scheme held = is_table                 ? nf4_scheme(64, true)
                      : row.name == "fp8"      ? fp8
                      : row.name == "modelopt" ? nvfp4
                      : row.name == "gguf"     ? ggml_scheme("q4_0")->scheme
                                               : integers;
  return random_layer(held, N, K, 5);
}

// The layers of a case that the format holds.
std::vector<NamedLayer> held_layers(const Format& format, const Case& c) {
  std::vector<NamedLayer> layers;
  for (const Sample& sample : c.samples) {
    const QuantizedLinear q = random_layer(c.scheme, sample.N, sample.K, 1, sample.column_groups);
    if (!format.refusal(module_of("m", q)).empty()) continue;
    layers.push_back({"m" + std::to_string(layers.size()), q});
  }
  return layers;
}

std::string name_of(const Format& format, const NamedLayer& layer) {
  return std::string(format.name) + ": " + describe(layer.q.scheme) + " of " +
         to_string({layer.q.N, layer.q.K}) +
         (layer.q.group_of_column.empty() ? "" : " with column groups");
}

TEST(Formats, NamesAreUniqueAndFound) {
  std::set<std::string_view> names;
  for (const Format& row : formats()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_EQ(&format(std::string(row.name)), &row);
    EXPECT_FALSE(row.summary.empty() || row.holds.empty() || row.readers.empty()) << row.name;
  }
}

TEST(Formats, HaveAPageEach) {
  for (const Format& row : formats()) {
    std::string file(row.name);
    for (char& c : file) c = c == '-' ? '_' : c;
    const std::string page =
        read_file(std::filesystem::path(NIBBLE_SOURCE_DIR) / "formats" / (file + ".md"));
    EXPECT_THAT(page, HasSubstr("Who reads it")) << file;
  }
}

TEST(Formats, UnknownNameSuggestsTheNearest) {
  try {
    format("gtpq");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'gptq'"));
    EXPECT_THAT(error.what(), HasSubstr("nibble"));
  }
}

TEST(Formats, LayoutIsWhatEncodeReturns) {
  for (const Format& row : formats()) {
    for (const Case& c : cases()) {
      for (const NamedLayer& layer : held_layers(row, c)) {
        const FormatModule module = module_of("m", layer.q);
        const auto announced = row.layout(module);
        const auto tensors = row.encode(module, layer.q);
        ASSERT_EQ(announced.size(), tensors.size()) << name_of(row, layer);
        for (size_t i = 0; i < tensors.size(); ++i) {
          EXPECT_EQ(announced[i].name, tensors[i].name);
          EXPECT_EQ(announced[i].dtype, tensors[i].tensor.dtype()) << name_of(row, layer);
          EXPECT_EQ(announced[i].shape, tensors[i].tensor.shape()) << name_of(row, layer);
        }
      }
    }
  }
}

TEST(Formats, WhatIsNotRefusedComesBackBitForBit) {
  for (const Format& row : formats()) {
    if (row.name == "dense") continue;
    size_t held = 0;
    for (const Case& c : cases()) {
      const std::vector<NamedLayer> layers = held_layers(row, c);
      held += layers.size();
      if (layers.empty()) continue;
      const TemporaryFolder folder;
      const Checkpoint checkpoint = written(folder.path() / "model", row, layers);
      for (const NamedLayer& layer : layers) {
        const QuantizedLinear back = row.decode(checkpoint, layer.name, layer.q.N, layer.q.K);
        ASSERT_EQ(fingerprint(back), fingerprint(layer.q)) << name_of(row, layer);
      }
    }
    const bool is_narrow =
        row.name.starts_with("awq") || row.name == "tinychat" || row.name == "fp8";
    EXPECT_GE(held, row.name == "modelopt" ? 4U : is_narrow ? 6U : 40U) << row.name;
  }
}

// As quantize does it: declared by layout(), written by CheckpointWriter.
TEST(Formats, LayersPassThroughTheWriter) {
  for (const Format& row : formats()) {
    const QuantizedLinear q = usual_layer(row, 64, 128);
    const FormatModule module = module_of("m", q);
    const TemporaryFolder folder;
    CheckpointWriter writer(folder.path() / "model", {});
    for (const TensorInfo& tensor : row.layout(module)) writer.declare(tensor);
    writer.plan();
    for (const auto& [name, tensor] : row.encode(module, q)) writer.write(name, tensor.bytes());
    Json config = {{"model_type", "llama"}};
    config["quantization_config"] = row.config({&module, 1});
    writer.write_json("config.json", config);
    writer.finish();
    const Checkpoint checkpoint = Checkpoint::open(folder.path() / "model");
    if (row.name == "dense") {
      EXPECT_EQ(checkpoint.tensor("m.weight").shape(), (Shape{64, 128}));
    } else {
      EXPECT_EQ(fingerprint(row.decode(checkpoint, "m", 64, 128)), fingerprint(q)) << row.name;
    }
  }
}

TEST(Formats, EncodeRefusesWhatWasNotAnnounced) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, true, Dtype::kF16), 32, 64, 3);
  for (const Format& row : formats()) {
    FormatModule module = module_of("m", q);
    module.K = 32;
    EXPECT_THROW(row.encode(module, q), Error) << row.name;
    module = module_of("m", q);
    module.scheme = integer_scheme(4, 64, true, Dtype::kF16);
    EXPECT_THROW(row.encode(module, q), Error) << row.name;
  }
}

// Reasons are those of the format, precise enough to act on.
TEST(Formats, RefusalsSayWhy) {
  const auto refusal = [](const char* name, const Scheme& scheme, int64_t N, int64_t K,
                          bool groups = false) {
    FormatModule module = dense_module("m", N, K);
    module.scheme = scheme;
    module.has_column_groups = groups;
    return format(name).refusal(module);
  };
  const Scheme int4 = integer_scheme(4, 32, true, Dtype::kF16);
  EXPECT_EQ(refusal("gptq", integer_scheme(4, kAll, true, Dtype::kF16), 64, 200),
            "gptq packs along K: K = 200 is not a multiple of 32");
  EXPECT_EQ(refusal("gptq", int4, 40, 64),
            "gptq packs zero points along N: N = 40 is not a multiple of 32");
  EXPECT_EQ(refusal("gptq", integer_scheme(5, 32, true, Dtype::kF16), 64, 64),
            "gptq holds 2, 3, 4 and 8 bits");
  EXPECT_EQ(refusal("gptq", integer_scheme(4, 32, true, Dtype::kBF16), 64, 64),
            "gptq stores scales as F16, not BF16");
  EXPECT_EQ(refusal("awq", integer_scheme(8, 32, true, Dtype::kF16), 64, 64),
            "awq holds 4 bits only, not 8");
  EXPECT_EQ(refusal("awq", int4, 12, 64),
            "awq's outputs come in eights: N = 12 is not a multiple of 8");
  EXPECT_EQ(refusal("awq", int4, 64, 64, true), "awq has no column groups (act-order)");
  for (const char* name : {"gptq", "awq", "compressed-tensors"}) {
    EXPECT_EQ(refusal(name, int4, 64, 80), "K = 80 is not a multiple of the group size 32");
    Scheme scheme = int4;
    scheme.activations.emplace();
    EXPECT_THAT(refusal(name, scheme, 64, 64), HasSubstr("quantized activations"));
    scheme = int4;
    scheme.scale->second.emplace();
    EXPECT_EQ(refusal(name, scheme, 64, 64), "it has no second level of scales");
    scheme = int4;
    scheme.grid = {.kind = Grid::Kind::kTable, .bits = 1, .name = "sign", .table = {-1, 1}};
    EXPECT_THAT(refusal(name, scheme, 64, 64), HasSubstr("it holds integers, not sign"));
    scheme = int4;
    scheme.grid.lowest = -7;
    EXPECT_THAT(refusal(name, scheme, 64, 64), HasSubstr("integers with scales"));
    EXPECT_EQ(refusal(name, int4, 64, 64), "");
  }
  EXPECT_EQ(refusal("compressed-tensors", integer_scheme(4, kAll, false, Dtype::kF16, true), 8, 8),
            "it packs no zero point of a whole tensor");
  EXPECT_EQ(refusal("nibble", integer_scheme(5, 24, false, Dtype::kF32), 7, 100, true), "");
}

// gptq, compressed-tensors and awq hold the same 4-bit codes: exporting changes none of them.
TEST(Formats, ExportBetweenThemIsExact) {
  for (const bool symmetric : {true, false}) {
    const QuantizedLinear q =
        random_layer(integer_scheme(4, 32, symmetric, Dtype::kF16), 64, 128, 4);
    QuantizedLinear moved = q;
    for (const char* name :
         {"gptq", "compressed-tensors", "awq", "nibble", "gptq", "awq", "compressed-tensors"}) {
      moved = round_trip(format(name), moved);
      ASSERT_EQ(fingerprint(moved), fingerprint(q)) << name << ", symmetric " << symmetric;
    }
  }
}

TEST(Formats, ExportKeepsColumnGroupsAndThreeBits) {
  const QuantizedLinear q =
      random_layer(integer_scheme(3, 32, false, Dtype::kF16), 64, 128, 5, true);
  QuantizedLinear moved = q;
  for (const char* name : {"gptq", "compressed-tensors", "nibble", "gptq"}) {
    moved = round_trip(format(name), moved);
    ASSERT_EQ(fingerprint(moved), fingerprint(q)) << name;
  }
}

TEST(Formats, ReadersAreChosenByTheConfig) {
  for (const Format& row : formats()) {
    const QuantizedLinear q = usual_layer(row, 32, 64);
    const TemporaryFolder folder;
    const Checkpoint checkpoint = written(folder.path() / "model", row, {{"m", q}});
    const Format* found = format_of(checkpoint);
    if (row.name == "dense") {
      EXPECT_EQ(found, nullptr);
    } else {
      ASSERT_NE(found, nullptr) << row.name;
      EXPECT_EQ(found->name, row.name);
      EXPECT_THAT(found->tensors_of(checkpoint, "m"), ::testing::Not(::testing::IsEmpty()));
      EXPECT_THAT(found->tensors_of(checkpoint, "other"), ::testing::IsEmpty());
    }
  }
}

TEST(Formats, WhatIsNotReadYetIsNamed) {
  const auto error_of = [](const char* config) -> std::string {
    const TemporaryFolder folder;
    const Checkpoint checkpoint =
        written(folder.path() / "model", Json::parse(config), std::vector<NamedTensor>{});
    try {
      format_of(checkpoint);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_THAT(error_of(R"({"quant_method": "bitsandbytes"})"),
              HasSubstr("quant_method 'bitsandbytes': not read yet"));
  EXPECT_THAT(error_of(R"({"quant_method": "hqq"})"), HasSubstr("'hqq'"));
  EXPECT_THAT(error_of(R"({"quant_method": "compressed-tensors", "format": "marlin-24"})"),
              HasSubstr("format 'marlin-24'"));
  EXPECT_THAT(error_of(R"({"quant_method": "awq", "version": "Marlin", "bits": 4})"),
              HasSubstr("version 'marlin'"));
  EXPECT_THAT(error_of(R"({"quant_method": "gptq", "checkpoint_format": "marlin"})"),
              HasSubstr("checkpoint_format 'marlin'"));
  EXPECT_THAT(error_of(R"({"quant_method": "gptq", "is_marlin_format": true, "bits": 4})"),
              HasSubstr("'gptq'"));
  EXPECT_THAT(error_of(R"({"quant_method": 7})"), HasSubstr("not read yet"));
  EXPECT_THAT(error_of(R"({"quant_method": "mxfp4"})"),
              HasSubstr("awq (gemm, gemv, gemv_fast, llm-awq), bitsandbytes, fp8"));
}

TEST(Formats, StandInTheOrderShownToUsers) {
  std::vector<std::string> names;
  for (const Format& row : formats()) names.emplace_back(row.name);
  EXPECT_THAT(
      names, ElementsAre("compressed-tensors", "gptq", "awq", "awq-gemv", "awq-gemv-fast",
                         "tinychat", "bitsandbytes", "fp8", "modelopt", "gguf", "nibble", "dense"));
}

// A module both dense and quantized, or with a part missing, is refused by each.
TEST(Formats, IncompleteAndDoubleModulesAreErrors) {
  for (const Format& row : formats()) {
    if (row.name == "dense") continue;
    const QuantizedLinear q = usual_layer(row, 32, 64);
    const Stored whole = stored(row, q);
    EXPECT_EQ(decode_error(row, whole.config, whole.tensors, q.N, q.K), "") << row.name;
    for (const NamedTensor& part : whole.tensors) {
      if (part.name == "m.g_idx") continue;                                  // may be absent
      if (row.name == "modelopt" && part.name == "m.input_scale") continue;  // likewise
      Stored missing = whole;
      missing.remove(part.name);
      EXPECT_NE(decode_error(row, missing.config, missing.tensors, q.N, q.K), "") << part.name;
    }
    // Whose codes bear the name of the dense weight.
    if (row.name == "bitsandbytes" || row.name == "fp8" || row.name == "modelopt") continue;
    Stored twice = whole;
    twice.tensors.push_back({"m.weight", Tensor::allocate(Dtype::kF16, {q.N, q.K})});
    EXPECT_THAT(decode_error(row, twice.config, twice.tensors, q.N, q.K),
                HasSubstr("dense or quantized?"))
        << row.name;
  }
}

// Wrong shapes and types of every tensor, and sizes that are not those of the model.
TEST(Formats, WrongShapesAndTypesAreNamed) {
  for (const Format& row : formats()) {
    if (row.name == "dense") continue;
    const QuantizedLinear q = usual_layer(row, 32, 64);
    const Stored whole = stored(row, q);
    EXPECT_NE(decode_error(row, whole.config, whole.tensors, 32, 96), "") << row.name;
    EXPECT_NE(decode_error(row, whole.config, whole.tensors, 64, 64), "") << row.name;
    for (const NamedTensor& part : whole.tensors) {
      Stored broken = whole;
      broken.at(part.name) = Tensor::allocate(part.tensor.dtype(), {3, 5});
      EXPECT_THAT(decode_error(row, broken.config, broken.tensors, q.N, q.K),
                  HasSubstr("'" + part.name + "': shape [3, 5]"))
          << row.name;
      const bool says_what_it_is = part.name == "m.weight" && row.name != "bitsandbytes";
      if (says_what_it_is) continue;  // a dense weight, in another type
      broken.at(part.name) = Tensor::allocate(Dtype::kF64, part.tensor.shape());
      EXPECT_THAT(decode_error(row, broken.config, broken.tensors, q.N, q.K),
                  HasSubstr("'" + part.name + "': F64, expected"))
          << row.name;
    }
  }
}

TEST(Formats, NotANumberInAScaleIsAnError) {
  const QuantizedLinear q = random_layer(integer_scheme(4, 32, false, Dtype::kF16), 32, 64, 9);
  for (const Format& row : formats()) {
    if (row.name == "dense") continue;
    if (row.name == "bitsandbytes") continue;  // scales in F32: formats/bitsandbytes_test.cc
    if (row.name == "gguf") continue;          // scales in blocks: formats/gguf_blocks_test.cc
    if (row.name == "fp8") continue;           // scales in F32: formats/fp8_test.cc
    if (row.name == "modelopt") continue;      // likewise
    Stored broken = stored(row, q);
    for (NamedTensor& part : broken.tensors) {
      if (part.tensor.dtype() != Dtype::kF16) continue;
      part.tensor =
          Tensor::copy_of(Dtype::kF16, part.tensor.shape(), part.tensor.values<uint16_t>());
      part.tensor.mutable_values<uint16_t>()[1] = 0x7E00;  // no padding in any of them
    }
    EXPECT_THAT(decode_error(row, broken.config, broken.tensors, q.N, q.K), HasSubstr("NaN"))
        << row.name;
  }
}

}  // namespace
}  // namespace nibble
