// evaluate: perplexity of a model on a dataset, and its divergence from a reference model,
// streamed: logits are never kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/dataset.h"
#include "formats/checkpoint.h"
#include "kernels/matmul.h"
#include "src/pipeline/progress.h"
#include "src/tensor/tensor.h"

namespace nibble {

enum class Protocol {
  kHf,        // the papers': the text is one id stream, windows of seq_len, tokens 2..L scored
  kLlamaCpp,  // llama-perplexity's: BOS starts each window, its second half is scored
};
std::string_view protocol_name(Protocol protocol);
// Throws Error with the known names.
Protocol protocol_from_name(const std::string& name);

std::string_view products_name(Products products);  // "float", "fixed"
// Also "auto": fixed point where that is faster. Throws Error for other names.
Products products_from_name(const std::string& name);

struct EvaluateOptions {
  std::filesystem::path dataset;
  DatasetOptions dataset_options;
  Protocol protocol = Protocol::kHf;
  int64_t seq_len = 0;  // tokens per window; 0: 2048 or the model's context if that is smaller
  int64_t stride = 0;   // between windows; 0: seq_len. Each token is scored once
  int64_t limit = 0;    // first ids of the text; 0: all
  bool simulate_activations = false;     // quantized activations in float instead of integers
  Products products = Products::kFloat;  // of dense weights on the CPU
  Device device = Device::kCpu;
  int64_t max_vram = 0;  // bytes of a GPU's memory; 0: nearly all that is free
};

// Windows of equal length, and in each the first target that is scored.
struct Windows {
  int64_t seq_len = 0;
  std::vector<int64_t> starts;        // index of the window's first id in the stream
  std::vector<int64_t> first_target;  // 1 .. seq_len - 1: targets [first_target, last_target)
  int64_t last_target = 0;            // exclusive
  bool bos_first = false;             // the window's first id is replaced by BOS
};
// ids: how many the stream has. Throws Error when not one window fits, and for windows so short
// that nothing in them is scored.
Windows make_windows(Protocol protocol, int64_t ids, int64_t seq_len, int64_t stride,
                     bool bos_first);

struct EvaluateResult {
  int64_t seq_len = 0;
  int64_t windows = 0;
  int64_t tokens = 0;  // scored
  double nll = 0;      // mean per scored token, nats
  double perplexity = 0;
  double perplexity_stderr = 0;  // of the mean, tokens taken as independent
  double seconds = 0;            // of the forward passes
  int64_t peak_ram_bytes = 0;
  struct Comparison {
    double reference_nll = 0;
    double reference_perplexity = 0;
    double kl_divergence = 0;  // mean of KL(reference || model), nats
    double kl_p99 = 0;
    double top1_agreement = 0;  // share of tokens with the same most likely next token
  };
  std::optional<Comparison> comparison;
};

// reference may be null. Throws Error for a dataset, a vocabulary or a context that does not fit,
// and for a GPU that is not there or cannot run a model.
EvaluateResult evaluate(std::shared_ptr<const Checkpoint> checkpoint,
                        std::shared_ptr<const Checkpoint> reference, const EvaluateOptions& options,
                        const Progress& progress);

}  // namespace nibble
