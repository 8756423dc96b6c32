// generate: continues a prompt token by token, greedily or by temperature.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "formats/checkpoint.h"
#include "src/tensor/tensor.h"

namespace nibble {

struct GenerateOptions {
  std::string prompt;
  int64_t tokens = 64;
  double temperature = 0;  // 0: greedy
  uint64_t seed = 0;
  Device device = Device::kCpu;
  int64_t max_vram = 0;  // bytes of a GPU's memory; 0: nearly all that is free
};

struct GenerateResult {
  std::string text;  // the continuation
  int64_t prompt_tokens = 0;
  int64_t tokens = 0;
  double prompt_seconds = 0;
  double seconds = 0;  // of the generated tokens
  bool ended = false;  // by an end-of-text token
};

// on_text: pieces of the continuation as they come, valid UTF-8 each. Throws Error when prompt and
// tokens exceed the context.
GenerateResult generate(std::shared_ptr<const Checkpoint> checkpoint,
                        const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text);

}  // namespace nibble
