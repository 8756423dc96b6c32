// What the targets share: inputs that are several files, and the folder they are written to.
//
// Files of one input stand one behind the other with a zero byte between them; the last may hold
// zero bytes of its own. A safetensors file is two of them, its header and its data: the length
// before the header and the amount of data are made to fit, so that a changed header is still read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace nibble {

// `count` files; those that are not there are empty.
std::vector<std::string_view> files_of(std::string_view input, size_t count);
std::string input_of(const std::vector<std::string>& files);

// data is repeated or cut to the end of the last tensor that the header names, at most 256 KiB.
std::string safetensors_of(std::string_view header, std::string_view data);
// Header and data of a safetensors file, as files of an input.
std::string input_of_safetensors(const std::string& bytes);

// A folder of this process: files of the run before are written over.
const std::filesystem::path& scratch_folder();
// Writes a file there.
std::filesystem::path scratch(const std::string& name, std::string_view bytes);

// Files of the repository and of NIBBLE_TEST_DATA under these folders, that end so and have at most
// `largest` bytes.
std::vector<std::string> stored_files(const std::vector<std::filesystem::path>& folders,
                                      std::string_view ending, size_t largest = size_t{1} << 16);

// A llama of one block: 32 wide, 2 heads, 1 key-value head, 32 tokens.
Json tiny_config();
// Its weights, F32, all zero.
std::string tiny_safetensors();

}  // namespace nibble
