// Safetensors bytes written by hand: what no correct writer would produce.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace nibble {

inline std::string raw_safetensors(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

// The message of the Error that `call` throws; empty if it throws none. Other exceptions pass.
template <typename Exception, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace nibble
