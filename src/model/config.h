// Config: the numbers of one model, from config.json as transformers 4 or 5 writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "src/architecture/architecture.h"
#include "src/tensor/dtype.h"

namespace nibble {

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;
  double low_frequency_factor = 1;   // llama3
  double high_frequency_factor = 4;  // llama3
  double original_context = 0;       // llama3
};

struct Config {
  const Architecture* architecture = nullptr;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t key_value_heads = 0;
  int64_t head_size = 0;
  int64_t vocabulary_size = 0;
  int64_t context = 0;  // tokens
  double norm_epsilon = 0;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  int64_t sliding_window = 0;  // tokens that a position sees, itself included; 0: all
  Activation activation = Activation::kSilu;
  bool attention_bias = false;
  bool mlp_bias = false;
  bool tied_embeddings = false;
  Dtype dtype = Dtype::kF32;  // as declared; F32 when not

  // Inverse frequencies of rotary embedding [head_size / 2], scaling applied.
  std::vector<float> rope_frequencies() const;
};

// where: the file, for messages. Throws Error naming the key: missing, of the wrong type, out of
// range (heads not divisible by key_value_heads, ...), or asking for something not implemented (an
// unknown model_type or rope type, attention kinds, layer types, embedding scaling, ...).
Config read_config(const Json& config, const std::string& where);

}  // namespace nibble
