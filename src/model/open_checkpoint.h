// Opens a model wherever it is stored: a folder in Hugging Face layout, a safetensors file, or a
// GGUF file, which presents itself as such a folder: config.json and tokenizer files made from its
// metadata, tensors under the names and in the shapes and row order of Hugging Face.
#pragma once

#include <filesystem>

#include "formats/checkpoint.h"

namespace nibble {

// A GGUF's quantized linear layers are tensors of the format "gguf" (formats/gguf.cc); quantized
// embeddings are dequantized to F32 when first used. Throws Error as Checkpoint::open and
// GgufFile::open do, and for metadata or tensor types that are not implemented.
Checkpoint open_checkpoint(const std::filesystem::path& path);

}  // namespace nibble
