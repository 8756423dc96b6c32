// Datasets: files of text or of token ids, and the one rule that turns them into one id stream.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "src/model/tokenizer.h"
#include "src/tensor/dtype.h"

namespace nibble {

struct DatasetOptions {
  std::string text_key = "text";  // of .jsonl and .json objects
  Dtype ids_dtype = Dtype::kU16;  // of .bin: an integer type
};

// Either documents or ids, never both.
struct Dataset {
  std::filesystem::path file;
  std::vector<std::string> documents;  // UTF-8
  std::vector<int32_t> ids;
};

// By extension: .txt/.raw (one document), .jsonl/.json (one document per object; an array of
// objects, or of strings, in .json), each also with .gz; .npy (one or two dimensions of any integer
// type, v1 to v3), .bin. Throws Error with file, line and key for anything else: an unknown
// extension, broken JSON, a missing or non-text key, chat `messages` (not supported yet: says so),
// text that is not UTF-8, an empty dataset, a truncated gzip, ids that do not fit.
Dataset read_dataset(const std::filesystem::path& file, const DatasetOptions& options);

// Throws Error for an option that says nothing about a file of this kind: a key of text, a type of
// ids.
void check_options(const std::filesystem::path& file, const DatasetOptions& options);

// Whether a file of this name holds token ids rather than text: .npy, .bin.
bool dataset_is_ids(const std::filesystem::path& file);

// All documents joined by a blank line and tokenized once, with the BOS the tokenizer adds; or the
// ids as they are. Throws Error for an id outside 0..vocabulary_size-1, with its position.
std::vector<int32_t> token_stream(const Dataset& dataset, const Tokenizer* tokenizer,
                                  int64_t vocabulary_size);

}  // namespace nibble
