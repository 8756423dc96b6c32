// verify: whether a model on disk is sound, ours or a peer's, with everything that is wrong and not
// only the first: files against the manifest, index against shards, tensors against the
// architecture and the quantization config, and what the tensors hold.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "src/pipeline/progress.h"

namespace nibble {

struct VerifyProblem {
  std::string file;     // in the folder; empty where it is about the folder
  std::string tensor;   // or module; empty where it is about the file
  std::string problem;  // what was found and what was expected
};

struct VerifyReport {
  std::vector<VerifyProblem> problems;
  std::string format;          // of the quantized layers; empty: none are
  int64_t modules = 0;         // quantized layers that decode
  int64_t tensors = 0;         // in all weight files
  int64_t weight_files = 0;    // that could be opened
  int64_t files_compared = 0;  // with the manifest; 0: there is none
};

// path: a model folder, a safetensors file or a GGUF file. Throws Error for what cannot be judged:
// nothing there, no model, a model type or a quantization method that is not known.
VerifyReport verify(const std::filesystem::path& path, const Progress& progress);

}  // namespace nibble
