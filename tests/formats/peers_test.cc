// Checkpoints that the peers made themselves (tests/data/peers): the weights we read are theirs, by
// the CRC-32 of what their own code multiplies out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

uint32_t crc(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

// N and K as the tensors beside the module say.
std::pair<int64_t, int64_t> shape_of(const Checkpoint& checkpoint, const std::string& module) {
  const int64_t hidden = checkpoint.config().at("hidden_size");
  const int64_t wide = checkpoint.config().at("intermediate_size");
  const int64_t heads = checkpoint.config().at("num_attention_heads");
  const int64_t head = checkpoint.config().value("head_dim", hidden / heads);
  const int64_t groups = checkpoint.config().at("num_key_value_heads");
  if (module.ends_with("down_proj")) return {hidden, wide};
  if (module.ends_with("gate_proj") || module.ends_with("up_proj")) return {wide, hidden};
  if (module.ends_with("q_proj")) return {head * heads, hidden};
  if (module.ends_with("o_proj")) return {hidden, head * heads};
  return {head * groups, hidden};
}

void expect_weights_of_peer(const std::string& golden, const char* key, Dtype dtype) {
  const Json file =
      read_json(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests" / "golden" / (golden + ".json"));
  int modules = 0;
  for (const auto& [name, result] : file.at("results").items()) {
    const Checkpoint checkpoint = Checkpoint::open(own_test_data() / "peers" / name);
    const Format* format = format_of(checkpoint);
    ASSERT_NE(format, nullptr) << name;
    for (const auto& [module, expected] : result.at(key).items()) {
      ASSERT_FALSE(format->tensors_of(checkpoint, module).empty()) << name << ": " << module;
      const auto [N, K] = shape_of(checkpoint, module);
      const QuantizedLinear q = format->decode(checkpoint, module, N, K);
      const Tensor weights =
          nibble::format("dense").encode(module_of(module, q, dtype), q)[0].tensor;
      EXPECT_EQ(crc(weights.bytes()), expected.get<uint32_t>())
          << name << ": " << module << ", " << describe(q.scheme);
      ++modules;
    }
  }
  EXPECT_GE(modules, 6 * 14) << golden;
}

TEST(Peers, CompressedTensorsWeightsAreTheirs) {
  expect_weights_of_peer("peers_compressed_tensors", "weights_crc32", Dtype::kF32);
}

TEST(Peers, GptqmodelWeightsAreTheirs) {
  expect_weights_of_peer("peers_gptqmodel", "weights_f16_crc32", Dtype::kF16);
}

}  // namespace
}  // namespace nibble
