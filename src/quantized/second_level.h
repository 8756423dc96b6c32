// Second levels: scales that are quantized themselves, and how integers get them.
//
//   double_quantized     scale = map[stored] * second + offset, `second` F32 for 256 scales
//   progressive_scheme   scale = stored * second, `second` F16 for a row
// The second level is fitted first, for all scales of a layer at once; what a scale can be is then
// known, and solvers choose scales, zero points and codes by what will be read back.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"

namespace nibble {

inline constexpr int64_t kNestedBlock = 256;  // scales that share a second-level one

// bitsandbytes' signed dynamic map [256], ascending: 0, 1 and +-10^(e-6) (0.1 + 0.9 (j + 1/2) /
// 2^e), e = 0..6, j = 0..2^e - 1, in float.
std::span<const float> dynamic_map();

// The scheme with scales in 8 bits of the dynamic map around their mean (T. Dettmers et al., QLoRA,
// 2023, arXiv 2305.14314, section 3): offset = the mean, second = the largest distance to it of 256
// scales. 8 bits of this map keep a scale within 0.4 % of the spread of its 256 neighbours.
Scheme double_quantized(Scheme scheme);

// Progressive groups (Y. Lin et al., QServe, 2024, arXiv 2405.04532, section 4.1), 4 bits:
//   W[n, k] = second[n] * (code[n, k] - zero[n, g]) * stored[n, g]
// second = absmax of the row / 119 in F16; stored 1 to 16 in I8, zero 0 to 15. The product
// (code - zero) * stored is an 8-bit integer: what W4A8 kernels multiply activations by.
// Differs: the paper's margin, 119 instead of 127, keeps rounding to nearest in that range; here
// zero points are such that every code does, for a solver may choose any. Codes are rounded from
// the weights at once, where the paper rounds those to 8 bits first.
Scheme progressive_scheme(int64_t group_size);
bool is_progressive(const Scheme& scheme);

// Whether (code - zero) * stored of every code of progressive groups is an 8-bit integer, as it is
// of those made here.
bool fits_int8(const QuantizedLinear& q);
// These integers of row n, [K]: W[n, k] = second[n] * integers[k].
void integer_row(const QuantizedLinear& q, int64_t n, std::span<int8_t> integers);

// Scales [blocks] of a table as the bytes of bitsandbytes' double quantization.
ParameterValues double_quantize(std::span<const float> scales);

// Empty if the scales of this scheme, which has a second level, can be fitted; else the reason.
std::string second_level_refusal(const Scheme& scheme);
// Makes q.scale.second and q.scale.offset for scales [blocks] as fitted; 0: a block without weights
// but zeros, which does not count. W [N, K]: what they were fitted to. Throws Error(where, ...) for
// one that is infinite in its stored type.
void fit_second_level(ConstMatrixRef W, std::span<const float> scales, QuantizedLinear& q,
                      const std::string& where);

// Which second-level value parameter `index` of `blocks` uses.
int64_t second_index(const SecondLevel& second, int64_t index, int64_t blocks, int64_t N);
// A parameter's value.
float second_level_value(const SecondLevel& level, float value, float second, float offset);

struct ZeroRange {
  float smallest = 0.F;
  float largest = 15.F;
};

// What the scales of a layer can be, its second level given: rounds them, and stores them.
class StorableScales {
 public:
  // q: groups along rows; its scheme and the second level of its scales count.
  explicit StorableScales(const QuantizedLinear& q) : StorableScales(q, *q.scheme.scale, q.scale) {}
  // The same for the minimums of q, if it has any.
  static std::optional<StorableScales> of_minimums(const QuantizedLinear& q);

  // Scales become what they read back as. scales[i] is one of block blocks[i mod blocks.size()].
  // Double-quantized and progressive ones: the nearest that is positive; else as the type rounds,
  // float, or floats or integers with a second level, 0 included.
  void round(std::span<float> scales, std::span<const int64_t> blocks) const;
  // Zero points that a block of this scale, as it reads back, may have.
  ZeroRange zero_range(float scale, int64_t block) const {
    return protects_ ? protected_zeros(scale, block) : ZeroRange{.largest = steps_};
  }
  // scales [blocks], as they read back. Integers whose second level is 0 stay as they are.
  void store(std::span<const float> scales, ParameterValues& stored) const;

 private:
  StorableScales(const QuantizedLinear& q, const Parameter& parameter,
                 const ParameterValues& values);
  float unit(int64_t block) const;
  float as_stored(float scale, int64_t block) const;
  std::span<const float> levels(int64_t block) const;
  ZeroRange protected_zeros(float scale, int64_t block) const;

  Parameter parameter_;
  int64_t rows_;
  int64_t blocks_;
  float steps_;  // 2^bits - 1
  bool protects_;
  std::vector<float> second_;  // values of the second level
  // Floats with a second level (NVFP4's E4M3).
  bool is_float_ = false;
  // Integers in a range, without a table: value = integer * second.
  bool is_integer_ = false;
  float lowest_ = 0.F;
  float highest_ = 0.F;
  // Else, with a second level:
  int first_code_ = 0;
  int64_t level_count_ = 0;
  std::vector<float> levels_;  // [second-level values][level_count_] rising
};

}  // namespace nibble
