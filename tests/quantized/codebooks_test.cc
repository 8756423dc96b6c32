#include "src/quantized/codebooks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "tests/quantized/layers.h"

namespace nibble {
namespace {

TEST(Codebooks, SchemesCountTheirBooks) {
  // 4 bits and, for each row of 1024, 16 levels of 16 bits.
  const Scheme rows = kmeans_scheme(4);
  EXPECT_EQ(bits_per_weight(rows, 8, 1024), 4. + 256. / 1024.);
  EXPECT_EQ(bits_per_weight(rows, 8, 1024, false, Dtype::kF32), 4. + 512. / 1024.);
  EXPECT_EQ(describe(rows), "4-bit codebook per row");
  const Scheme groups = kmeans_scheme(3, 128);
  EXPECT_EQ(bits_per_weight(groups, 8, 1024), 3. + 128. / 128.);
  EXPECT_EQ(describe(groups), "3-bit codebook g128");
  const Scheme tensor = kmeans_scheme(2, kAll, true);
  EXPECT_EQ(bits_per_weight(tensor, 8, 1024), 2. + 64. / 8192.);
  EXPECT_EQ(describe(tensor), "2-bit codebook per tensor");
}

TEST(Codebooks, RoundingIsThatOfTheGeneralRule) {
  Sequence sequence(7);
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (const Blocking& blocking :
         {Blocking{}, Blocking{.rows = 1, .columns = 13}, Blocking{.rows = kAll, .columns = kAll},
          Blocking{.rows = 2, .columns = 20}, Blocking{.columns = 37, .flattened = true}}) {
      QuantizedLinear q;
      q.N = 5;
      q.K = 50;
      q.scheme = kmeans_scheme(bits);
      q.scheme.codebook_blocking = blocking;
      const int64_t books = block_count(blocking, q.N, q.K);
      // Multiples of 1/8 in no order: levels repeat, and weights lie halfway between them.
      std::vector<float> levels(static_cast<size_t>(books) << bits);
      for (float& level : levels) level = static_cast<float>(sequence.next() % 33) / 8.F - 2.F;
      q.codebooks = f16_tensor({books, int64_t{1} << bits}, levels);
      Matrix W(q.N, q.K);
      for (int64_t i = 0; i < W.size(); ++i) {
        W.data()[i] = i % 3 == 0 ? 3.F * sequence.uniform()
                                 : static_cast<float>(sequence.next() % 97) / 16.F - 3.F;
      }
      QuantizedLinear general = q;
      round_to_nearest(W, general);
      round_to_codebooks(W, q);
      EXPECT_NO_THROW(check(q, "layer"));
      EXPECT_EQ(fingerprint(q), fingerprint(general)) << bits << " " << describe(q.scheme);
    }
  }
}

TEST(Codebooks, TheNextFloatBesideAHalfwayPointFallsToItsSide) {
  QuantizedLinear q;
  q.N = 1;
  q.K = 3;
  q.scheme = kmeans_scheme(1);
  for (const bool descending : {false, true}) {
    q.codebooks = f32_tensor(
        {1, 2}, descending ? std::vector<float>{3.F, 1.F} : std::vector<float>{1.F, 3.F});
    Matrix W(1, 3);
    W << std::nextafter(2.F, 0.F), 2.F, std::nextafter(2.F, 3.F);
    round_to_codebooks(W, q);
    const auto codes = q.codes.values<uint8_t>();
    EXPECT_EQ(codes[0], descending ? 1 : 0);
    EXPECT_EQ(codes[1], 0);  // the lower code of two as near
    EXPECT_EQ(codes[2], descending ? 0 : 1);
  }
}

}  // namespace
}  // namespace nibble
