// What users of PCRE2 share: owners of its objects, and the texts of its errors. They link it.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstddef>
#include <memory>
#include <string>

namespace nibble {

template <typename T, void (*kFree)(T*)>
struct Pcre2Free {
  void operator()(T* pointer) const { kFree(pointer); }
};
template <typename T, void (*kFree)(T*)>
using Pcre2Owned = std::unique_ptr<T, Pcre2Free<T, kFree>>;

// code: what a function of the library returned, below 0 or an error of pcre2_compile.
inline std::string pcre2_message(int code) {
  std::string text(256, '\0');
  const int length =
      pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text.data()), text.size());
  text.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return text;
}

}  // namespace nibble
