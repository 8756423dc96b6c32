// Checkpoints made by other programs decode to the weights those programs compute with, bit for bit
// (tools/golden/peers_bitsandbytes.py, peers_compressed_tensors.py, peers_gptqmodel.py).
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "src/model/layout.h"
#include "src/pipeline/evaluate.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/golden/golden.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

struct Peer {
  std::string folder;
  Json expected;
};

std::vector<Peer> peers() {
  std::vector<Peer> all;
  for (const char* file : {"peers_bitsandbytes", "peers_compressed_tensors", "peers_gptqmodel"}) {
    const Json results = golden_results(file);
    for (const auto& item : results.items()) all.push_back({item.key(), item.value()});
  }
  const Json three_bits = golden_results("peers_compressed_tensors")["ct-int3-g32-symmetric"];
  all.push_back({"ct-0.12-int3-g32-symmetric", three_bits});  // the same codes, packed otherwise
  return all;
}

std::shared_ptr<const Checkpoint> open(const Peer& peer) {
  return std::make_shared<const Checkpoint>(
      Checkpoint::open(own_test_data() / "peers" / peer.folder));
}

uint32_t crc_of(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

uint32_t crc_of(const Matrix& weights, Dtype dtype) {
  const std::span<const float> values(weights.data(), static_cast<size_t>(weights.size()));
  if (dtype == Dtype::kF32) return crc_of(std::as_bytes(values));
  std::vector<std::byte> bytes(values.size() * 2);
  from_float(values, dtype, bytes);
  return crc_of(bytes);
}

class PeerCheckpoint : public testing::TestWithParam<Peer> {};

TEST_P(PeerCheckpoint, DecodesToThePeersWeights) {
  const auto checkpoint = open(GetParam());
  const ModelLayout layout = read_layout(*checkpoint);
  const Json& expected = GetParam().expected;
  // gptqmodel computes in F16: one rounding of the same float product.
  const bool rounded = expected.contains("weights_f16_crc32");
  const Json& crcs = expected[rounded ? "weights_f16_crc32" : "weights_crc32"];
  size_t quantized = 0;
  for (const LinearModule& module : layout.linears) {
    if (module.quantized_tensors.empty()) continue;
    ++quantized;
    ASSERT_TRUE(crcs.contains(module.name)) << module.name;
    EXPECT_EQ(crc_of(load_weight(*checkpoint, layout, module), rounded ? Dtype::kF16 : Dtype::kF32),
              crcs[module.name].get<uint32_t>())
        << module.name;
  }
  EXPECT_EQ(quantized, crcs.size());
}

TEST_P(PeerCheckpoint, LosesAsMuchAsInThePeer) {
  const Json& expected = GetParam().expected;
  EvaluateOptions options;
  options.dataset = own_test_data() / "tiny" / "ids.npy";
  options.seq_len = expected["seq_len"].get<int64_t>();
  const double nll = evaluate(open(GetParam()), nullptr, options, {}).nll;
  // The reference of gptqmodel has weights rounded to F16: relative 2^-11 each, of random sign.
  const double tolerance = expected.contains("weights_f16_crc32") ? 1e-3 : 1e-5;
  EXPECT_NEAR(nll, expected["nll"].get<double>(), tolerance * nll);
}

std::string name_of(const testing::TestParamInfo<Peer>& info) {
  std::string name = info.param.folder;
  for (char& c : name) {
    if (c == '-' || c == '.') c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, PeerCheckpoint, testing::ValuesIn(peers()), name_of);

}  // namespace
}  // namespace nibble
