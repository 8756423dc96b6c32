// ModelLayout: which tensors of a checkpoint are what, checked against the architecture before any
// work: every expected tensor is there with its shape, and none is left over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "src/model/config.h"

namespace nibble {

// One stored linear layer.
struct LinearModule {
  std::string name;    // module path: "model.layers.0.self_attn.q_proj", "lm_head"
  int64_t block = -1;  // index; -1 for the output head
  int64_t N = 0;
  int64_t K = 0;
  std::vector<Role> roles;
  InputGroup input = InputGroup::kAttention;
  std::string weight;       // tensor name; empty when the checkpoint holds the module quantized
  std::string bias;         // tensor name, or empty
  bool transposed = false;  // the dense weight is stored [K, N]
  std::vector<std::string> quantized_tensors;  // names, when the module is stored quantized
};

struct ModelLayout {
  Config config;
  const Format* format = nullptr;     // of the quantized modules; null: none are
  std::vector<LinearModule> linears;  // block by block, then the head if it has a tensor of its own
  std::string embedding;              // tensor name of the token embedding
  std::string position_embedding;     // or empty
  std::string final_norm;             // module name
  // The output head: index into linears, or nullopt when it is the embedding (tied).
  std::optional<size_t> head;
  // Norm modules of a block: full names, empty where the architecture has none.
  struct BlockNorms {
    std::string attention, mlp, query, key;
  };
  std::vector<BlockNorms> norms;     // [layers]
  std::vector<std::string> ignored;  // buffers in the checkpoint that are no weights

  // Rows of `role` in a module: [first, first + count).
  static std::pair<int64_t, int64_t> rows_of(const Config& config, const LinearModule& module,
                                             Role role);
};

// Tied embeddings in every form: one tensor under either name (safetensors' metadata may say
// which), both with equal bytes, or config and tensors disagreeing (an Error says how). Throws
// Error naming file and tensor. With findings, everything that is wrong with tensors and modules is
// added there and left out; config.json must be understood all the same.
ModelLayout read_layout(const Checkpoint& checkpoint, Findings* findings = nullptr);

// The weights of a linear layer [N, K] in float, whatever its storage (transposed, quantized, any
// dtype). Lies in `memory` where that has the size of the matrix.
Matrix load_weight(const Checkpoint& checkpoint, const ModelLayout& layout,
                   const LinearModule& module, Matrix memory = {});
// A tensor in float, of any float dtype.
std::vector<float> load_floats(const Checkpoint& checkpoint, const std::string& tensor);

}  // namespace nibble
