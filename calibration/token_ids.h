// Files of token ids: NumPy arrays and plain binary.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "src/tensor/dtype.h"

namespace nibble {

// bytes: the whole file. .npy of format 1, 2 or 3 with one or two dimensions of an integer type of
// either byte order; rows one after the other. Throws Error naming the file and what is wrong.
std::vector<int32_t> ids_from_npy(std::string_view bytes, const std::filesystem::path& file);

// Nothing but ids, little-endian. dtype: an integer type.
std::vector<int32_t> ids_from_binary(std::string_view bytes, Dtype dtype,
                                     const std::filesystem::path& file);

}  // namespace nibble
