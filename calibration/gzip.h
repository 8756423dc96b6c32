// Gzip files, whole into memory.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nibble {

// One or several members (RFC 1952). Throws Error naming the file for what is no gzip, is damaged,
// ends early, has other bytes behind it, or expands beyond 4 GiB.
std::string gunzip(std::string_view bytes, const std::filesystem::path& file);

}  // namespace nibble
