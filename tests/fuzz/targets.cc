#include <algorithm>
#include <array>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "src/tensor/error.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"

namespace nibble {

std::span<const FuzzTarget> fuzz_targets() {
  static const std::array kRows = {kSafetensorsTarget,  kIndexTarget,
                                   kModelTarget,        kGgufTarget,
                                   kGgufBlocksTarget,   kTokenizerJsonTarget,
                                   kVocabMergesTarget,  kSentencePieceTarget,
                                   kTiktokenTarget,     kNpyTarget,
                                   kJsonLinesTarget,    kJsonTarget,
                                   kGzipTarget,         kCompressedTensorsTarget,
                                   kGptqTarget,         kAwqTarget,
                                   kBitsandbytesTarget, kFp8Target,
                                   kModeloptTarget,     kNibbleTarget,
                                   kManifestTarget,     kStatisticsTarget,
                                   kRecipeTarget};
  return kRows;
}

const FuzzTarget* fuzz_target(std::string_view name) {
  const auto found = std::ranges::find(fuzz_targets(), name, &FuzzTarget::name);
  return found == fuzz_targets().end() ? nullptr : &*found;
}

void run_target(const FuzzTarget& target, std::string_view input) {
  try {
    target.run(input);
  } catch (const Error& error) {
    if (!error.where().empty() && !error.problem().empty()) return;
    throw std::logic_error("an error that does not say where: " + std::string(error.what()));
  }
}

}  // namespace nibble
