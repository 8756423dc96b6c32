#include "kernels/cuda/shared_library.h"

#include <dlfcn.h>

#include <span>
#include <string>

#include "src/tensor/error.h"

namespace nibble {

SharedLibrary::SharedLibrary(std::span<const char* const> names, const std::string& hint) {
  std::string tried;
  for (const char* name : names) {
    handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      name_ = name;
      return;
    }
    tried += (tried.empty() ? "" : "; ") + std::string(dlerror());
  }
  throw Error(names.empty() ? "" : names.front(), "cannot be opened (" + tried + ")", hint);
}

SharedLibrary::~SharedLibrary() { dlclose(handle_); }

void* SharedLibrary::address(const char* function) const {
  void* const address = dlsym(handle_, function);
  if (address == nullptr) {
    throw Error(name_, "has no function '" + std::string(function) + "'", "another version?");
  }
  return address;
}

}  // namespace nibble
