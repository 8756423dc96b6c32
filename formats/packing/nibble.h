// The layout of our own format's codes. Page: formats/nibble.md.
#pragma once

#include <cstdint>

#include "formats/packing/row_stream.h"

namespace nibble {

// U8 [N, ceil(K * bits / 8)], bits 1 to 8.
template <int kCodeBits>
using NibbleCodes = RowStream<uint8_t, kCodeBits>;

}  // namespace nibble
