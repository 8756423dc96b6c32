#include "quantizers/transforms/transforms.h"

#include <gtest/gtest.h>

#include <string>

#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "tests/transforms/groups.h"

namespace nibble {
namespace {

TEST(Transforms, EveryRowFindsScalesThatAreNoWorseByItsOwnScore) {
  for (const Transform& row : transforms()) {
    EXPECT_EQ(&transform(std::string(row.name)), &row);
    EXPECT_FALSE(row.summary.empty());
    EXPECT_FALSE(row.source.empty());
    Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
    scheme.activations.emplace();
    ScaleGroup group = random_group({32, 16}, 48, scheme, 1);
    const FoundScales found = row.find(group, {.alpha = {}}, {});
    EXPECT_EQ(found.s.size(), 48) << row.name;
    EXPECT_GT(found.s.minCoeff(), 0.F) << row.name;
    EXPECT_TRUE(found.s.allFinite()) << row.name;
    EXPECT_LE(found.score_after, found.score_before) << row.name;
    EXPECT_FALSE(found.how.empty());
    group.inputs.H.setZero();
    group.inputs.largest.setZero();
    EXPECT_EQ(row.find(group, {.alpha = {}}, {}).how, "identity") << row.name;
  }
}

TEST(Transforms, AnUnknownNameGetsTheNearestOne) {
  try {
    transform("smothquant");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("smoothquant"), std::string::npos);
  }
}

}  // namespace
}  // namespace nibble
