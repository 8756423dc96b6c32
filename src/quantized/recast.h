// The same weights under another scheme, bit for bit: larger groups cut into smaller blocks, codes
// moved to a grid that has their levels, zero points that become minimums. Nothing is rounded: what
// does not fit exactly is refused with the place where it does not.
#pragma once

#include <optional>
#include <string>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

// The same numbers in another float type; nullopt when one of them would change.
std::optional<Tensor> exactly_as(const Tensor& tensor, Dtype type);

struct Recast {
  std::optional<QuantizedLinear> q;
  std::string reason;  // without q: "row 3, group 0 has the level 9, beyond -8 to 7"
};

// target: integers along rows with a float scale, and no zero point, one of 0 to 2^bits - 1, or a
// minimum of the scale's type.
Recast recast(const QuantizedLinear& q, const Scheme& target);

}  // namespace nibble
