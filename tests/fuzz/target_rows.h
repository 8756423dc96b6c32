// The rows of fuzz_targets(), by the file that holds them.
#pragma once

#include "tests/fuzz/target.h"

namespace nibble {

// container_targets.cc
extern const FuzzTarget kSafetensorsTarget;
extern const FuzzTarget kIndexTarget;
extern const FuzzTarget kGgufTarget;
extern const FuzzTarget kGgufBlocksTarget;
// tokenizer_targets.cc
extern const FuzzTarget kTokenizerJsonTarget;
extern const FuzzTarget kVocabMergesTarget;
extern const FuzzTarget kSentencePieceTarget;
extern const FuzzTarget kTiktokenTarget;
// dataset_targets.cc
extern const FuzzTarget kNpyTarget;
extern const FuzzTarget kJsonLinesTarget;
extern const FuzzTarget kJsonTarget;
extern const FuzzTarget kGzipTarget;
// layer_targets.cc
extern const FuzzTarget kCompressedTensorsTarget;
extern const FuzzTarget kGptqTarget;
extern const FuzzTarget kAwqTarget;
extern const FuzzTarget kBitsandbytesTarget;
extern const FuzzTarget kFp8Target;
extern const FuzzTarget kModeloptTarget;
extern const FuzzTarget kNibbleTarget;
// model_targets.cc
extern const FuzzTarget kModelTarget;
extern const FuzzTarget kManifestTarget;
extern const FuzzTarget kStatisticsTarget;
extern const FuzzTarget kRecipeTarget;

}  // namespace nibble
