// What the modules of a model are called in a GGUF file, and how their rows lie there. One table
// serves reading and writing. Page: formats/gguf.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/architecture/architecture.h"

namespace nibble {

struct GgufModule {
  std::string module;  // ours: "model.layers.0.self_attn.q_proj"
  std::string name;    // "blk.0.attn_q"
  // Query and key rows of architecture "llama": inside a head the two halves alternate.
  enum class Rows { kInOrder, kQueryHeads, kKeyHeads };
  Rows rows = Rows::kInOrder;
  bool is_linear = false;
  bool transposed = false;  // our dense weight is [K, N], GGUF's always [N, K]
};

// 'general.architecture' of a model type; empty if llama.cpp has none that we write.
std::string_view gguf_architecture(const Architecture& architecture);
// The model type that reads such a file; null for an architecture that is not known.
const Architecture* architecture_of_gguf(std::string_view gguf_architecture);

// Every module of the model: embeddings, blocks, final norm, head.
std::vector<GgufModule> gguf_modules(const Architecture& architecture, int64_t layers);

// Row of GGUF's tensor that holds our row of a query or key weight [heads * head_size, K] or bias:
// within a head, row r of the first half is GGUF's 2 r, of the second half 2 r + 1.
int64_t gguf_row(int64_t row, int64_t head_size);

}  // namespace nibble
