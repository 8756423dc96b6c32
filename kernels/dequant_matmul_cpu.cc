// y[t, n] = sum over p of x[t, column(p)] * W[n, p], W = (level(code) - zero) * scale + minimum:
// the specification, in the simplest loops. W in float, each operation rounded once, as
// dequantize(); products and sums in float64.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/packing/packing.h"
#include "formats/packing/rows.h"
#include "kernels/dequant_matmul.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

uint8_t code_of(const PackedLinear& w, int64_t n, int64_t p) {
  const uint32_t* words = w.words.values<uint32_t>().data();
  switch (w.bits) {
    case 2:
      return load_code<Rows<2>>(words, n, p, w.N, w.columns);
    case 3:
      return load_code<Rows<3>>(words, n, p, w.N, w.columns);
    case 4:
      return load_code<Rows<4>>(words, n, p, w.N, w.columns);
    default:
      return load_code<Rows<8>>(words, n, p, w.N, w.columns);
  }
}

float weight_of(const PackedLinear& w, int64_t n, int64_t p) {
  const int code = code_of(w, n, p);
  const int64_t book = w.levels.empty() ? 0 : n / w.book_rows * (w.bits == 8 ? 256 : 16);
  const int64_t block = n * w.groups + p / w.group;
  float value = w.levels.empty() ? static_cast<float>(code + w.lowest) : w.levels[book + code];
  if (!w.zero.empty()) value = value - w.zero[block];
  if (!w.scale.empty()) value = value * w.scale[block];
  if (!w.minimum.empty()) value = value + w.minimum[block];
  return value;
}

}  // namespace

void dequant_matmul_reference(ConstMatrixRef x, const PackedLinear& w, MatrixRef y) {
  std::vector<double> sums(static_cast<size_t>(x.rows()));
  for (int64_t n = 0; n < w.N; ++n) {
    sums.assign(sums.size(), 0.);
    for (int64_t p = 0; p < w.columns; ++p) {
      const int64_t k = w.column.empty() ? p : w.column[p];
      if (k < 0) continue;
      const double weight = weight_of(w, n, p);
      for (int64_t t = 0; t < x.rows(); ++t) sums[t] += double{x(t, k)} * weight;
    }
    for (int64_t t = 0; t < x.rows(); ++t) y(t, n) = static_cast<float>(sums[t]);
  }
}

}  // namespace nibble
