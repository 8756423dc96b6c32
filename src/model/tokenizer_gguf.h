// The tokenizer in the metadata of a GGUF file, as the files of a Hugging Face folder, and the way
// back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/metadata.h"

namespace nibble {

// tokenizer.json (byte-level BPE) or tokenizer.model (SentencePiece), and tokenizer_config.json;
// none where the file has no tokenizer. Throws Error naming the key for kinds and pre-tokenizers
// that are not implemented, and for arrays that do not fit each other.
std::vector<SideFile> gguf_tokenizer_files(const GgufMetadata& metadata);

// Appends the tokenizer.ggml keys for the tokenizer of a model folder or GGUF file, with exactly
// `vocabulary` tokens (those without a text get one that no text spells). A model without a
// tokenizer gets the kind "none", which llama.cpp loads but cannot tokenize with. Throws Error for
// pre-tokenizers and kinds that llama.cpp does not have.
void add_gguf_tokenizer(const std::filesystem::path& model, int64_t vocabulary,
                        GgufMetadata& metadata);

}  // namespace nibble
