// Quantized layers and the blocks of a GGUF tensor, byte for byte, in both directions; nothing is
// rounded or searched here. Page: formats/gguf.md; where the bits lie: formats/packing/gguf.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "formats/gguf/types.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Whether decode_blocks and encode_blocks know the type: the rows of ggml_schemes().
bool has_blocks(const GgufType& type);

// The type that holds rows of K weights of this scheme; null if none does.
const GgufType* block_type(const Scheme& scheme, int64_t K);

// bytes: rows of K / block blocks each. Throws Error(where, ...) for a type without blocks, a K
// that is no multiple of them, bytes that are not those of N x K weights, and scales that are not
// finite, with their place.
QuantizedLinear decode_blocks(const GgufType& type, std::span<const std::byte> bytes, int64_t N,
                              int64_t K, const std::string& where);

// U8 [N, bytes of a row]. q has the scheme of the type and columns in their own order; throws
// Error(where, ...) otherwise.
Tensor encode_blocks(const GgufType& type, const QuantizedLinear& q, const std::string& where);

}  // namespace nibble
