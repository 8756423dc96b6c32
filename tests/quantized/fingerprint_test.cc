#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

QuantizedLinear layer() {
  Scheme scheme = integer_scheme(4, 16, false, Dtype::kF16);
  scheme.zero->second = SecondLevel{.type = Dtype::kF32, .has_offset = true};
  scheme.minimum = parameter(Dtype::kF32, 32);
  scheme.minimum->table = {1.F};
  scheme.activations = ActivationScheme{.symmetric = false, .dynamic = false, .per_token = false};
  QuantizedLinear q = random_layer(scheme, 4, 40);
  q.zero.second = f32_tensor({1}, {2.F});
  q.zero.offset = 1.F;
  q.minimum.values = f32_tensor({12}, std::vector<float>(12, 1.F));
  q.codebooks = f32_tensor({1, 2}, {1.F, 2.F});
  q.group_of_column.assign(40, 1);
  q.input_scale = f32_tensor({1}, {1.F});
  q.input_zero = tensor_of(Dtype::kI8, {1}, std::vector<int8_t>{1});
  return q;
}

TEST(Fingerprint, EqualLayersAtOtherAddressesAreEqual) {
  EXPECT_EQ(fingerprint(layer()), fingerprint(layer()));
}

TEST(Fingerprint, TheShapeOfAParameterArrayDoesNotCount) {
  QuantizedLinear q = layer();
  q.minimum.values = f32_tensor({4, 3}, std::vector<float>(12, 1.F));
  EXPECT_EQ(fingerprint(q), fingerprint(layer()));
}

TEST(Fingerprint, EveryPartCounts) {
  using Change = std::function<void(QuantizedLinear&)>;
  const std::vector<std::pair<std::string, Change>> changes = {
      {"N and K", [](auto& q) { std::swap(q.N, q.K); }},
      {"kind", [](auto& q) { q.scheme.grid.kind = Grid::Kind::kTable; }},
      {"bits", [](auto& q) { q.scheme.grid.bits = 5; }},
      {"lowest", [](auto& q) { q.scheme.grid.lowest = -1; }},
      {"name", [](auto& q) { q.scheme.grid.name.push_back('x'); }},
      {"table", [](auto& q) { q.scheme.grid.table = {0.F}; }},
      {"block rows", [](auto& q) { q.scheme.blocking.rows = 2; }},
      {"block columns", [](auto& q) { q.scheme.blocking.columns = 15; }},
      {"flattened", [](auto& q) { q.scheme.blocking.flattened = true; }},
      {"codebook blocking", [](auto& q) { q.scheme.codebook_blocking.rows = 2; }},
      {"no scale", [](auto& q) { q.scheme.scale.reset(); }},
      {"parameter type", [](auto& q) { q.scheme.zero->type = Dtype::kI8; }},
      {"parameter bits", [](auto& q) { q.scheme.zero->bits = 5; }},
      {"parameter table", [](auto& q) { q.scheme.minimum->table = {2.F}; }},
      {"no second level", [](auto& q) { q.scheme.zero->second.reset(); }},
      {"second type", [](auto& q) { q.scheme.zero->second->type = Dtype::kF16; }},
      {"second block", [](auto& q) { q.scheme.zero->second->block = 8; }},
      {"divides", [](auto& q) { q.scheme.zero->second->divides = true; }},
      {"has offset", [](auto& q) { q.scheme.zero->second->has_offset = false; }},
      {"offset", [](auto& q) { q.zero.offset = 2.F; }},
      {"second values", [](auto& q) { q.zero.second = f32_tensor({1}, {3.F}); }},
      {"no activations", [](auto& q) { q.scheme.activations.reset(); }},
      {"activation bits", [](auto& q) { q.scheme.activations->bits = 4; }},
      {"activation symmetry", [](auto& q) { q.scheme.activations->symmetric = true; }},
      {"dynamic", [](auto& q) { q.scheme.activations->dynamic = true; }},
      {"per token", [](auto& q) { q.scheme.activations->per_token = true; }},
      {"float activations", [](auto& q) { q.scheme.activations->is_float = true; }},
      {"activation columns", [](auto& q) { q.scheme.activations->columns = 32; }},
      {"activation scale", [](auto& q) { q.scheme.activations->divides = true; }},
      {"codes",
       [](auto& q) {
         q.codes = Tensor::allocate(Dtype::kU8, {4, 40});
       }},
      {"scales", [](auto& q) { q.scale.values = Tensor::allocate(Dtype::kF16, {12}); }},
      {"scale type", [](auto& q) { q.scale.values = Tensor::allocate(Dtype::kBF16, {12}); }},
      {"zeros", [](auto& q) { q.zero.values = Tensor::allocate(Dtype::kU8, {12}); }},
      {"minimums", [](auto& q) { q.minimum.values = Tensor::allocate(Dtype::kF32, {12}); }},
      {"codebooks",
       [](auto& q) {
         q.codebooks = f32_tensor({1, 2}, {1.F, 3.F});
       }},
      {"column groups", [](auto& q) { q.group_of_column[3] = 2; }},
      {"input scale", [](auto& q) { q.input_scale = f32_tensor({1}, {2.F}); }},
      {"input zero", [](auto& q) { q.input_zero = Tensor::allocate(Dtype::kI8, {1}); }},
  };
  for (const auto& [part, change] : changes) {
    QuantizedLinear q = layer();
    change(q);
    EXPECT_NE(fingerprint(q), fingerprint(layer())) << part;
  }
}

}  // namespace
}  // namespace nibble
