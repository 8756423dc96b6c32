// The tensor types of GGUF: ids, names and sizes (ggml.h, enum ggml_type). What their bytes mean is
// formats/gguf/blocks.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "src/tensor/dtype.h"

namespace nibble {

struct GgufType {
  uint32_t id = 0;
  std::string_view name;       // llama.cpp's, in lower case
  int64_t block = 1;           // elements stored together; a row is a multiple
  int64_t block_bytes = 1;     // of such a block
  std::optional<Dtype> dtype;  // where a block is one element as we know it
};

// Null if there is none.
const GgufType* gguf_type(uint32_t id);
const GgufType* gguf_type(std::string_view name);
const GgufType* gguf_type(Dtype dtype);

}  // namespace nibble
