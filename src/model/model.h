// Model: the forward pass, block by block, from a mapped checkpoint. Only what is being computed is
// in memory: a block's weights are loaded, used on a batch of windows and dropped, so that a model
// far larger than memory runs. fp32.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "kernels/dequant_matmul.h"
#include "kernels/int8_matmul.h"
#include "kernels/matmul.h"
#include "kernels/workspace.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// Quantized activations in float: floats, and integers to compare with what runs on them.
struct SimulatedInputs {
  ActivationScheme scheme;
  float scale = 1.F;  // static activations
  int32_t zero = 0;   // likewise
};

struct ModelOptions {
  bool simulate_activations = false;     // quantized activations in float instead of integers
  Products products = Products::kFloat;  // of dense weights
};

// A linear layer ready to run: dense, packed or 8-bit integer weights, what happens to its inputs,
// and its bias.
struct Linear {
  PanelMatrix dense;                         // [N, K], or empty
  std::unique_ptr<PackedLinear> packed;      // or null
  std::unique_ptr<Int8Linear> int8;          // or null; its inputs are quantized
  std::optional<SimulatedInputs> simulated;  // of the inputs of dense or packed weights
  Vector bias;                               // [N], or empty
  std::vector<Role> roles;
  int64_t N = 0;
  int64_t K = 0;
};

// Replaces the weights of a layer by those of q: 8-bit integers with quantized activations run as
// such, or are simulated in float, as FP8 and FP4 activations always are; weights run packed where
// they can. Throws Error for quantized activations of another kind.
void set_weights(Linear& linear, const QuantizedLinear& q, ModelOptions options = {});
void set_weights(Linear& linear, PanelMatrix dense);

struct NormWeights {
  Vector weight;  // [n], empty: no norm
  Vector bias;    // [n], or empty
};

// module: a name of ModelLayout; an empty one has no weights.
NormWeights load_norm(const Checkpoint& checkpoint, const ModelLayout& layout,
                      const std::string& module);

struct Block {
  NormWeights attention_norm, mlp_norm, query_norm, key_norm;
  std::vector<Linear> attention;  // q, k, v in any stacking
  Linear attention_output;
  std::vector<Linear> mlp;  // gate and up, or up
  Linear down;

  int64_t bytes() const;  // of the weights as they are in memory
};

// Keys and values of one block for one sequence, for generation.
struct KeyValueCache {
  Matrix keys;    // [context, key_value_heads * head_size], rotary embedding applied
  Matrix values;  // same shape
  int64_t tokens = 0;
};

// Rows of x are tokens: windows one after another, each of `window` tokens that attend only to
// earlier ones of the same window; positions start at 0 in each.
struct Batch {
  int64_t windows = 1;
  int64_t window = 0;  // tokens
};

// Owns a workspace that forward() uses again: one forward pass at a time.
class Model {
 public:
  explicit Model(std::shared_ptr<const Checkpoint> checkpoint, ModelOptions options = {});

  const Config& config() const { return layout_.config; }
  const ModelLayout& layout() const { return layout_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }

  // Throws Error for ids outside the vocabulary and windows that pass the end of the context.
  void check_batch(std::span<const int32_t> ids, const Batch& batch,
                   int64_t first_position = 0) const;
  // Token (and learned position) embeddings, ids [windows * window] -> [T, hidden_size].
  // first_position: of the first token of each window.
  Matrix embed(std::span<const int32_t> ids, const Batch& batch, int64_t first_position = 0) const;
  Block load_block(int64_t index) const;
  // x [T, hidden_size] -> the next block's input, in place.
  void forward(const Block& block, const Batch& batch, Matrix& x) const;
  // What the linear layers of every group see in this block, up to `last` in the order of the
  // forward pass: see(group, X [T, K], residual [T, hidden_size], first row of x), for some windows
  // at a time, in order. residual is the stream that the group's outputs are added to (attention
  // output, MLP down) or normed from. x stays as it is.
  using SeeInputs = std::function<void(InputGroup, ConstMatrixRef, ConstMatrixRef, int64_t)>;
  void observe(const Block& block, const Batch& batch, const Matrix& x, InputGroup last,
               const SeeInputs& see) const;
  // One sequence continued: x [tokens, hidden_size] are the tokens after those in the cache.
  void forward(const Block& block, KeyValueCache& cache, Matrix& x) const;

  // The final norm and the output head.
  struct Head {
    NormWeights norm;
    Linear linear;
  };
  Head load_head() const;
  // Logits of some rows of the last block's output: x [rows, hidden_size] -> [rows, vocabulary].
  Matrix logits(const Head& head, ConstMatrixRef x) const;
  // -log p(target) of every row, in nats, logits never whole: x [T, hidden_size], targets [T], a
  // target < 0 is skipped and its result is 0.
  std::vector<double> cross_entropy(const Head& head, const Matrix& x,
                                    std::span<const int32_t> targets) const;

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelOptions options_;
  ModelLayout layout_;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace nibble
