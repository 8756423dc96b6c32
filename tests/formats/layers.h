// Quantized layers of random bits, and tiny checkpoints made of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor.h"

namespace nibble {

// Codes and parameters uniform over what the scheme allows, scales in [0.5, 1) * 2^-4 and, with
// column groups, a random assignment with equal groups.
QuantizedLinear random_layer(const Scheme& scheme, int64_t N, int64_t K, uint32_t seed,
                             bool column_groups = false);

FormatModule module_of(const std::string& name, const QuantizedLinear& q,
                       Dtype dtype = Dtype::kF16);
// One that stays as it is.
FormatModule dense_module(const std::string& name, int64_t N, int64_t K);

struct NamedLayer {
  std::string name;
  QuantizedLinear q;
};

// Writes config.json with the format's configuration and the tensors, and opens the folder.
Checkpoint written(const std::filesystem::path& folder, const Format& format,
                   const std::vector<NamedLayer>& layers);
// Any tensors under any configuration.
Checkpoint written(const std::filesystem::path& folder, const Json& quantization_config,
                   const std::vector<NamedTensor>& tensors);

// One layer "m" through a checkpoint and back.
QuantizedLinear round_trip(const Format& format, const QuantizedLinear& q);

// The tensor called `name` of one layer "m", as the format writes it.
Tensor encoded(const Format& format, const QuantizedLinear& q, const std::string& name);

// The Error's text of decoding module "m", [N, K], or "" if it does not throw.
std::string decode_error(const Format& format, const Json& quantization_config,
                         const std::vector<NamedTensor>& tensors, int64_t N, int64_t K);
// Config and tensors of one layer "m", to be broken.
struct Stored {
  Json config;
  std::vector<NamedTensor> tensors;
  Tensor& at(const std::string& name);
  void remove(const std::string& name);
};
Stored stored(const Format& format, const QuantizedLinear& q);

// Code `e` of a stream of `bits`-bit codes, read bit by bit and apart from formats/packing: bit b
// of the stream is bit b % 32 of word b / 32, which is words[first + b / 32 * stride].
int read_streamed_code(const Tensor& words, int64_t first, int64_t stride, int64_t e, int bits);

}  // namespace nibble
