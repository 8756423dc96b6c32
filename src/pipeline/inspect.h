// inspect: what is in a checkpoint, from its headers; quantized layers are decoded to name their
// schemes.
#pragma once

#include "formats/checkpoint.h"
#include "formats/json.h"

namespace nibble {

// The object of `nibble inspect --json`: architecture, parameters, bytes, quantization, tensors.
// parameters counts weights of the model: quantized layers as N * K, tied embeddings once.
Json inspect(const Checkpoint& checkpoint);

}  // namespace nibble
