// The layout of FP4 codes (E2M1) in compressed-tensors, ModelOpt and gpt-oss: U8 [N, K / 2], the
// even column in the low half of a byte. GGUF's differs: formats/packing/gguf.h. Pages:
// formats/compressed_tensors.md, formats/modelopt.md.
#pragma once

#include <cstdint>

#include "formats/packing/row_stream.h"

namespace nibble {

using Float4Codes = RowStream<uint8_t, 4>;

}  // namespace nibble
