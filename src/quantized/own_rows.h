// Layers whose rows share nothing, so that they can be made a few rows at a time.
#pragma once

#include <cstdint>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"

namespace nibble {

// Whether no block, no second level and no codebook of the scheme reaches from one row of K columns
// into another.
bool has_own_rows(const Scheme& scheme, int64_t K);

// A layer of N rows with the scheme of `part`, a layer of a few rows without column groups. Its
// arrays are not initialized.
QuantizedLinear room_for_rows(const QuantizedLinear& part, int64_t N);
// Makes rows [first, first + part.N) of q those of `part`. May run on several threads at once.
void place_rows(const QuantizedLinear& part, int64_t first, QuantizedLinear& q);

}  // namespace nibble
