// The manifest of a model folder: the file nibble.json that `quantize` and `export` leave in it. It
// says what made the model (program, recipe, fingerprints of the data) and has the size and SHA-256
// of every other file, so that a copy can be checked, by `nibble verify` or by sha256sum. It holds
// no times, and paths only as the recipe was given them: the same command gives the same bytes.
//
// Here is its list of files; what else is in it is src/pipeline's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"

namespace nibble {

inline constexpr const char* kManifestFile = "nibble.json";

struct FileHash {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;  // 64 hexadecimal digits

  bool operator==(const FileHash&) const = default;
};

// Of every file directly in the folder but the manifest, by name; the largest are begun first, on
// `threads` threads. Throws Error for a file that cannot be read.
std::vector<FileHash> hash_files(const std::filesystem::path& folder, int threads);

// The manifest's "files": {"config.json": {"bytes": 640, "sha256": "..."}, ...}.
Json files_to_json(const std::vector<FileHash>& files);

// Adds a finding for every file that the manifest's "files" names and the folder lacks or has with
// another size or hash, and for a list that cannot be read. Files that it does not name are no
// findings: a copy may have a README of its own. Returns how many it compared; 0 without a list.
int64_t check_files(const std::filesystem::path& folder, const Json& manifest, int threads,
                    Findings& findings);

}  // namespace nibble
