// One test per way in which a layer can contradict itself, all on a small asymmetric layer that is
// sound before it is broken.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// 4 x 40 in groups of 16: three of them, the last of 8 columns.
QuantizedLinear sound() { return random_layer(integer_scheme(4, 16, false, Dtype::kF16), 4, 40); }

// The message about a sound layer after `damage`.
std::string broken(const std::function<void(QuantizedLinear&)>& damage) {
  QuantizedLinear q = sound();
  damage(q);
  try {
    check(q, "layer");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_broken(const std::string& part, const std::function<void(QuantizedLinear&)>& damage) {
  const std::string message = broken(damage);
  EXPECT_NE(message.find(part), std::string::npos) << "got: " << message << "\nwant: " << part;
  EXPECT_EQ(message.rfind("layer", 0), 0U) << message;
}

std::vector<float> twelve(float value) { return std::vector<float>(12, value); }

TEST(Check, ASoundLayerPasses) {
  EXPECT_EQ(broken([](QuantizedLinear&) {}), "no error");
  EXPECT_EQ(broken([](QuantizedLinear& q) {
              q.group_of_column.assign(40, 2);
              q.scale.values = f16_tensor({4, 3}, twelve(0.F));
            }),
            "no error");
}

TEST(Check, SizesArePositive) {
  expect_broken("0 x 40 weights", [](QuantizedLinear& q) { q.N = 0; });
}

TEST(Check, CodesHaveOneToEightBits) {
  expect_broken("codes of 9 bits", [](QuantizedLinear& q) { q.scheme.grid.bits = 9; });
  expect_broken("codes of 0 bits", [](QuantizedLinear& q) { q.scheme.grid.bits = 0; });
}

TEST(Check, TablesHaveALevelForEachCode) {
  expect_broken("table of 15 levels, expected 16", [](QuantizedLinear& q) {
    q.scheme.grid.kind = Grid::Kind::kTable;
    q.scheme.grid.table.assign(15, 0.F);
  });
  expect_broken("table of 16 levels, expected 0",
                [](QuantizedLinear& q) { q.scheme.grid.table.assign(16, 0.F); });
}

TEST(Check, BlocksHaveASize) {
  expect_broken("blocks of 1 x 0", [](QuantizedLinear& q) { q.scheme.blocking.columns = 0; });
  expect_broken("blocks of -3 x 16", [](QuantizedLinear& q) { q.scheme.blocking.rows = -3; });
  expect_broken("flattened", [](QuantizedLinear& q) {
    q.scheme.blocking = {.rows = 1, .columns = kAll, .flattened = true};
  });
}

TEST(Check, CodesAreBytesOfTheWholeMatrix) {
  expect_broken("found U8 [40, 4], expected U8 [4, 40]", [](QuantizedLinear& q) {
    q.codes = Tensor::allocate(Dtype::kU8, {40, 4});
  });
  expect_broken("found I8 [4, 40]", [](QuantizedLinear& q) {
    q.codes = Tensor::allocate(Dtype::kI8, {4, 40});
  });
  expect_broken("codes: found", [](QuantizedLinear& q) { q.codes = Tensor(); });
}

TEST(Check, CodesAreInRange) {
  expect_broken("codes: code 16 at row 2, column 7 is no level of 4-bit codes",
                [](QuantizedLinear& q) {
                  std::vector<uint8_t> codes(160, 15);
                  codes[87] = 16;
                  q.codes = tensor_of(Dtype::kU8, {4, 40}, codes);
                });
}

TEST(Check, CodesThatMeanNanAreNamed) {
  expect_broken("code 3 at row 0, column 1 is no level of odd", [](QuantizedLinear& q) {
    q.scheme.grid = {.kind = Grid::Kind::kTable, .bits = 4, .name = "odd"};
    q.scheme.grid.table.assign(16, 1.F);
    q.scheme.grid.table[3] = kNan;
    std::vector<uint8_t> codes(160, 4);
    codes[1] = 3;
    q.codes = tensor_of(Dtype::kU8, {4, 40}, codes);
  });
}

TEST(Check, ParametersOfTheSchemeExist) {
  expect_broken("scales: found nothing, expected 12 values of F16",
                [](QuantizedLinear& q) { q.scale.values = Tensor(); });
  expect_broken("zero points: found nothing", [](QuantizedLinear& q) { q.zero.values = Tensor(); });
  expect_broken("minimums: found nothing",
                [](QuantizedLinear& q) { q.scheme.minimum = parameter(Dtype::kF16, 16); });
}

TEST(Check, ParametersWithoutSchemeAreRefused) {
  expect_broken("zero points: values, but the scheme has no such parameter",
                [](QuantizedLinear& q) { q.scheme.zero.reset(); });
}

TEST(Check, ParametersHaveTheTypeOfTheScheme) {
  expect_broken("scales: found F32 [12], expected 12 values of F16",
                [](QuantizedLinear& q) { q.scale.values = f32_tensor({12}, twelve(1.F)); });
}

TEST(Check, ParametersHaveOneValuePerBlock) {
  expect_broken("found F16 [11], expected 12", [](QuantizedLinear& q) {
    q.scale.values = f16_tensor({11}, std::vector<float>(11, 1.F));
  });
}

TEST(Check, ParameterTypesAreFloatsOrBytes) {
  expect_broken("type I32", [](QuantizedLinear& q) { q.scheme.zero->type = Dtype::kI32; });
  expect_broken("type F64", [](QuantizedLinear& q) { q.scheme.scale->type = Dtype::kF64; });
}

TEST(Check, SignificantBitsFitTheType) {
  expect_broken("9 significant bits in U8", [](QuantizedLinear& q) { q.scheme.zero->bits = 9; });
  expect_broken("12 significant bits in F16",
                [](QuantizedLinear& q) { q.scheme.scale->bits = 12; });
}

TEST(Check, PackedParametersFitTheirBits) {
  expect_broken("zero points: 16 at row 1, group 2, expected 0 to 15", [](QuantizedLinear& q) {
    std::vector<uint8_t> zeros(12, 15);
    zeros[5] = 16;
    q.zero.values = tensor_of(Dtype::kU8, {12}, zeros);
  });
  expect_broken("-33 at row 0, group 1, expected -32 to 31", [](QuantizedLinear& q) {
    q.scheme.scale = parameter(Dtype::kI8, 6);
    std::vector<int8_t> scales(12, -32);
    scales[1] = -33;
    q.scale.values = tensor_of(Dtype::kI8, {12}, scales);
  });
}

TEST(Check, ParameterTablesHaveAValueForEachCode) {
  expect_broken("table of 3 values for 4 bits of U8",
                [](QuantizedLinear& q) { q.scheme.zero->table.assign(3, 0.F); });
  expect_broken("table of 4 values for 16 bits of F16",
                [](QuantizedLinear& q) { q.scheme.scale->table.assign(4, 0.F); });
}

TEST(Check, SecondLevelsAreStoredExactlyWhenTheSchemeHasThem) {
  expect_broken("second-level values, but the scheme has no second level",
                [](QuantizedLinear& q) { q.scale.second = f16_tensor({1}, {1.F}); });
  expect_broken("scales: second level: found nothing, expected 3 values of F16",
                [](QuantizedLinear& q) { q.scheme.scale->second = SecondLevel{.block = 4}; });
  expect_broken("second level: found F16 [4], expected 3", [](QuantizedLinear& q) {
    q.scheme.scale->second = SecondLevel{.block = 4};
    q.scale.second = f16_tensor({4}, {1.F, 1.F, 1.F, 1.F});
  });
}

TEST(Check, SecondLevelsHaveAFloatTypeAndABlock) {
  expect_broken("second level of type U8", [](QuantizedLinear& q) {
    q.scheme.scale->second = SecondLevel{.type = Dtype::kU8};
  });
  expect_broken("0 values share one",
                [](QuantizedLinear& q) { q.scheme.scale->second = SecondLevel{.block = 0}; });
}

TEST(Check, SecondLevelsPerRowNeedBlocksInsideARow) {
  expect_broken("needs blocks inside one row", [](QuantizedLinear& q) {
    q.scheme.blocking.rows = 2;
    q.scheme.scale->second = SecondLevel{.block = kOneRow};
  });
}

TEST(Check, OffsetsBelongToTheScheme) {
  expect_broken("an offset of 0.5", [](QuantizedLinear& q) { q.scale.offset = .5F; });
}

TEST(Check, ScalesAreFinite) {
  expect_broken("scales: NaN at row 2, group 1", [](QuantizedLinear& q) {
    std::vector<float> scales = twelve(1.F);
    scales[7] = kNan;
    q.scale.values = f16_tensor({4, 3}, scales);
  });
  // Finite as stored, infinite with the second level: 60000 / 2^-20 is, in float, not; 1 / 0 is.
  expect_broken("scales: infinity at row 0, group 0", [](QuantizedLinear& q) {
    q.scheme.scale->second = SecondLevel{.divides = true};
    q.scale.second = f16_tensor({1}, {0.F});
  });
  expect_broken("minimums: infinity at row 3, group 2", [](QuantizedLinear& q) {
    q.scheme.minimum = parameter(Dtype::kF32, 32);
    std::vector<float> minimums = twelve(1.F);
    minimums[11] = std::numeric_limits<float>::infinity();
    q.minimum.values = f32_tensor({12}, minimums);
  });
}

TEST(Check, ColumnGroupsAreOnePerColumnAndExist) {
  expect_broken("39 entries, expected 40",
                [](QuantizedLinear& q) { q.group_of_column.assign(39, 0); });
  expect_broken("column 5 is in group 3 of 3", [](QuantizedLinear& q) {
    q.group_of_column.assign(40, 0);
    q.group_of_column[5] = 3;
  });
  expect_broken("column 0 is in group -1",
                [](QuantizedLinear& q) { q.group_of_column.assign(40, -1); });
  expect_broken("flattened matrix have no column groups", [](QuantizedLinear& q) {
    q.scheme.blocking.flattened = true;
    q.group_of_column.assign(40, 0);
  });
}

TEST(Check, CodebooksAreThereExactlyWhenTheGridHasThem) {
  expect_broken("codebooks, but the grid has none", [](QuantizedLinear& q) {
    q.codebooks = f16_tensor({1, 1}, {0.F});
  });
  expect_broken("codebooks: found F32 [], expected a float type [4, 16]",
                [](QuantizedLinear& q) { q.scheme.grid.kind = Grid::Kind::kCodebook; });
  expect_broken("expected a float type [4, 16]", [](QuantizedLinear& q) {
    q.scheme.grid.kind = Grid::Kind::kCodebook;
    q.codebooks = f16_tensor({16, 4}, std::vector<float>(64, 0.F));
  });
  expect_broken("found I8 [4, 16]", [](QuantizedLinear& q) {
    q.scheme.grid.kind = Grid::Kind::kCodebook;
    q.codebooks = Tensor::allocate(Dtype::kI8, {4, 16});
  });
}

TEST(Check, CodebooksAreFinite) {
  expect_broken("in codebook 1", [](QuantizedLinear& q) {
    q.scheme.grid.kind = Grid::Kind::kCodebook;
    std::vector<float> values(64, 0.F);
    values[20] = kNan;
    q.codebooks = f32_tensor({4, 16}, values);
  });
}

TEST(Check, ActivationsArePossible) {
  expect_broken("9-bit integers",
                [](QuantizedLinear& q) { q.scheme.activations = ActivationScheme{.bits = 9}; });
  expect_broken("6-bit floats", [](QuantizedLinear& q) {
    q.scheme.activations = ActivationScheme{.bits = 6, .is_float = true};
  });
  expect_broken("floats by token have scales of 128 columns", [](QuantizedLinear& q) {
    q.scheme.activations = ActivationScheme{.bits = 4, .is_float = true};
  });
  expect_broken("floats by token have scales of 128 columns", [](QuantizedLinear& q) {
    q.scheme.activations = ActivationScheme{.columns = 128};
  });
  expect_broken("stored scales per token", [](QuantizedLinear& q) {
    q.scheme.activations = ActivationScheme{.dynamic = false};
  });
  expect_broken("float levels with a zero point", [](QuantizedLinear& q) {
    q.scheme.activations = ActivationScheme{.symmetric = false, .is_float = true};
  });
}

void make_static(QuantizedLinear& q, bool symmetric) {
  q.scheme.activations =
      ActivationScheme{.symmetric = symmetric, .dynamic = false, .per_token = false};
  q.input_scale = f32_tensor({1}, {0.5F});
  if (!symmetric) q.input_zero = tensor_of(Dtype::kI8, {1}, std::vector<int8_t>{3});
}

TEST(Check, StaticActivationsHaveAScale) {
  EXPECT_EQ(broken([](QuantizedLinear& q) { make_static(q, false); }), "no error");
  expect_broken("input_scale: found nothing", [](QuantizedLinear& q) {
    make_static(q, true);
    q.input_scale = Tensor();
  });
  expect_broken("input_scale: type I8", [](QuantizedLinear& q) {
    make_static(q, true);
    q.input_scale = tensor_of(Dtype::kI8, {1}, std::vector<int8_t>{1});
  });
  expect_broken("input_scale: found F32 [2]", [](QuantizedLinear& q) {
    make_static(q, true);
    q.input_scale = f32_tensor({2}, {1.F, 1.F});
  });
  expect_broken("expected a positive number", [](QuantizedLinear& q) {
    make_static(q, true);
    q.input_scale = f32_tensor({1}, {0.F});
  });
  expect_broken("a stored scale, but activations are not static",
                [](QuantizedLinear& q) { q.input_scale = f32_tensor({1}, {1.F}); });
}

TEST(Check, StaticAsymmetricActivationsHaveAZero) {
  expect_broken("input_zero: found nothing", [](QuantizedLinear& q) {
    make_static(q, false);
    q.input_zero = Tensor();
  });
  expect_broken("a stored zero point, but activations have none", [](QuantizedLinear& q) {
    make_static(q, false);
    q.scheme.activations->symmetric = true;
  });
}

}  // namespace
}  // namespace nibble
