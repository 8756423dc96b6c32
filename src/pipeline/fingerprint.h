// Hashes that compare what was meant with what was written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/checkpoint.h"
#include "src/quantized/quantized_linear.h"

namespace nibble {

using Hash128 = std::array<uint64_t, 2>;

Hash128 hash_of(std::span<const std::byte> bytes);
// Of codes, parameters and column groups. A layer whose zero points are all 2^(bits-1) hashes as
// the symmetric layer with the same codes, and column groups k / group size as none: formats store
// these alike.
Hash128 hash_of(const QuantizedLinear& q);

// Of a model: its configuration, and every tensor's name, type, shape and bytes. Reads all of it.
Hash128 hash_of(const Checkpoint& checkpoint);

// 32 hexadecimal digits.
std::string to_text(const Hash128& hash);

}  // namespace nibble
