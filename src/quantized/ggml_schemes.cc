#include "src/quantized/ggml_schemes.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

Grid integers(int bits, int lowest) {
  return {.kind = Grid::Kind::kInteger, .bits = bits, .lowest = lowest};
}

Grid iq4_levels() {
  return {.kind = Grid::Kind::kTable,
          .bits = 4,
          .name = "iq4_nl",
          .table = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}};
}

// OCP Microscaling Formats v1.0, table 4. llama.cpp keeps the levels as integers: code 8 is +0.
Grid e2m1_levels() {
  return {.kind = Grid::Kind::kTable,
          .bits = 4,
          .name = "e2m1",
          .table = {0.F, 0.5F, 1.F, 1.5F, 2.F, 3.F, 4.F, 6.F, 0.F, -0.5F, -1.F, -1.5F, -2.F, -3.F,
                    -4.F, -6.F}};
}

// One F16 scale, and perhaps minimum, for 32 weights.
GgmlScheme plain(std::string_view name, Grid grid, bool has_minimum) {
  GgmlScheme row{.name = name};
  row.scheme.grid = std::move(grid);
  row.scheme.blocking.columns = row.block;
  row.scheme.scale = stored_as(Dtype::kF16, 16);
  if (has_minimum) row.scheme.minimum = row.scheme.scale;
  return row;
}

// Integer scales for `group` weights, times the F16 of their 256.
GgmlScheme nested(std::string_view name, Grid grid, int64_t group, const Parameter& scale,
                  bool has_minimum) {
  GgmlScheme row{.name = name, .block = kSuperBlock};
  row.scheme.grid = std::move(grid);
  row.scheme.blocking.columns = group;
  row.scheme.scale = scale;
  row.scheme.scale->second = SecondLevel{.type = Dtype::kF16, .block = kSuperBlock / group};
  if (has_minimum) row.scheme.minimum = row.scheme.scale;
  return row;
}

GgmlScheme mxfp4() {
  GgmlScheme row = plain("mxfp4", e2m1_levels(), false);
  row.scheme.scale = stored_as(Dtype::kF8E8M0, 8);
  return row;
}

std::vector<GgmlScheme> make_schemes() {
  return {
      plain("q8_0", integers(8, -128), false),
      nested("q6_k", integers(6, -32), 16, stored_as(Dtype::kI8, 8), false),
      plain("q5_1", integers(5, 0), true),
      nested("q5_k", integers(5, 0), 32, stored_as(Dtype::kU8, 6), true),
      plain("q5_0", integers(5, -16), false),
      plain("q4_1", integers(4, 0), true),
      nested("q4_k", integers(4, 0), 32, stored_as(Dtype::kU8, 6), true),
      plain("q4_0", integers(4, -8), false),
      plain("iq4_nl", iq4_levels(), false),
      nested("iq4_xs", iq4_levels(), 32, stored_as(Dtype::kI8, 6), false),
      mxfp4(),
      nested("q3_k", integers(3, -4), 16, stored_as(Dtype::kI8, 6), false),
      nested("q2_k", integers(2, 0), 16, stored_as(Dtype::kU8, 4), true),
  };
}

}  // namespace

std::span<const GgmlScheme> ggml_schemes() {
  static const std::vector<GgmlScheme> rows = make_schemes();
  return rows;
}

const GgmlScheme* ggml_scheme(std::string_view name) {
  const auto rows = ggml_schemes();
  const auto row = std::ranges::find(rows, name, &GgmlScheme::name);
  return row == rows.end() ? nullptr : &*row;
}

const GgmlScheme* ggml_scheme(const Scheme& scheme) {
  const auto rows = ggml_schemes();
  const auto row = std::ranges::find(rows, scheme, &GgmlScheme::scheme);
  return row == rows.end() ? nullptr : &*row;
}

}  // namespace nibble
