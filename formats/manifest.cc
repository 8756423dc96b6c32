#include "formats/manifest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <future>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "formats/mapped_file.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigestBytes = 32;

std::string sha256_of(const fs::path& path) {
  const MappedFile file(path);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(file.bytes().data(), file.bytes().size(), digest.data(), &size, EVP_sha256(),
                 nullptr) != 1 ||
      size != kDigestBytes) {
    throw Error(path.string(), "SHA-256 is not available");
  }
  std::string text;
  for (size_t i = 0; i < kDigestBytes; ++i) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned>(digest[i]));
    text += digits.data();
  }
  return text;
}

// Hashes what lacks a hash. One file is one thread's: SHA-256 has no parallel form.
void hash(const fs::path& folder, std::vector<FileHash*> files, int threads) {
  std::ranges::sort(files,
                    [](const FileHash* a, const FileHash* b) { return a->bytes > b->bytes; });
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      files[i]->sha256 = sha256_of(folder / files[i]->name);
    }
  };
  std::vector<std::future<void>> workers;
  for (int i = 0; i < threads; ++i) workers.push_back(std::async(std::launch::async, work));
  for (std::future<void>& worker : workers) worker.get();
}

// "bytes" and "sha256" of one entry; false if it is not of this form.
bool read_entry(const Json& entry, FileHash& file) {
  if (!entry.is_object()) return false;
  const auto bytes = entry.find("bytes");
  const auto sha256 = entry.find("sha256");
  if (bytes == entry.end() || !bytes->is_number_integer() || sha256 == entry.end() ||
      !sha256->is_string()) {
    return false;
  }
  file.bytes = bytes->get<int64_t>();
  file.sha256 = sha256->get<std::string>();
  return file.name.find_first_of("/\\") == std::string::npos;
}

// The files of a manifest's list that are there and as large as it says; findings for the others.
std::vector<FileHash> files_of_the_right_size(const fs::path& folder, const Json& list,
                                              Findings& findings) {
  std::vector<FileHash> files;
  for (const auto& [name, entry] : list.items()) {
    FileHash file{.name = name, .bytes = 0, .sha256 = {}};
    if (!read_entry(entry, file)) {
      findings.emplace_back((folder / kManifestFile).string(),
                            "'files' has no size and SHA-256 for '" + name + "'");
      continue;
    }
    std::error_code error;
    const uintmax_t bytes = fs::file_size(folder / name, error);
    if (error) {
      findings.emplace_back((folder / name).string(), "is missing, nibble.json lists it");
    } else if (bytes != static_cast<uintmax_t>(file.bytes)) {
      findings.emplace_back(
          (folder / name).string(),
          std::to_string(bytes) + " bytes, nibble.json says " + std::to_string(file.bytes),
          "incomplete copy?");
    } else {
      files.push_back(std::move(file));
    }
  }
  return files;
}

}  // namespace

std::vector<FileHash> hash_files(const fs::path& folder, int threads) {
  std::vector<FileHash> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name == kManifestFile) continue;
    files.push_back({.name = name, .bytes = static_cast<int64_t>(entry.file_size()), .sha256 = {}});
  }
  std::ranges::sort(files, {}, &FileHash::name);
  std::vector<FileHash*> all;
  for (FileHash& file : files) all.push_back(&file);
  hash(folder, std::move(all), threads);
  return files;
}

Json files_to_json(const std::vector<FileHash>& files) {
  Json json = Json::object();
  for (const FileHash& file : files) {
    json[file.name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  }
  return json;
}

int64_t check_files(const fs::path& folder, const Json& manifest, int threads, Findings& findings) {
  const auto list = manifest.find("files");
  if (list == manifest.end()) return 0;
  if (!list->is_object()) {
    findings.emplace_back((folder / kManifestFile).string(), "'files' is no object");
    return 0;
  }
  const std::vector<FileHash> expected = files_of_the_right_size(folder, *list, findings);
  std::vector<FileHash> found = expected;
  std::vector<FileHash*> all;
  for (FileHash& file : found) all.push_back(&file);
  hash(folder, std::move(all), threads);
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i] == expected[i]) continue;
    findings.emplace_back((folder / found[i].name).string(),
                          "SHA-256 " + found[i].sha256 + ", nibble.json says " + expected[i].sha256,
                          "changed or damaged since it was written");
  }
  return std::ssize(*list);
}

}  // namespace nibble
