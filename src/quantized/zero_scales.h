// Blocks that a scale of zero has emptied: their codes say something that the scale takes away,
// which a sound file does not do on purpose (a scale that underflowed, a page of zeros).
#pragma once

#include <cstdint>
#include <string>

#include "src/quantized/quantized_linear.h"

namespace nibble {

struct ZeroScales {
  int64_t blocks = 0;
  std::string first;  // "row 3, group 2"; empty without any
};

// Blocks with scale 0 and a code whose level is not the zero point. None for scales that are
// quantized in turn, whose small ones round to 0, and for tables without a level 0.
ZeroScales zero_scales(const QuantizedLinear& q);

}  // namespace nibble
