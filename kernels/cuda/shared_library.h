// SharedLibrary: a library that is opened when it is first needed, because it is too large to ship
// and the program must start without it: cuBLAS.
#pragma once

#include <span>
#include <string>

namespace nibble {

// Keeps the library open.
class SharedLibrary {
 public:
  // The first of `names` (file names, as the system's loader searches for them) that opens. Throws
  // Error that lists them, with the hint.
  SharedLibrary(std::span<const char* const> names, const std::string& hint);
  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;
  ~SharedLibrary();

  const std::string& name() const { return name_; }
  // Throws Error if the library has no such function.
  template <typename Function>
  void find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(address(name));
  }

 private:
  void* address(const char* function) const;

  std::string name_;
  void* handle_ = nullptr;
};

}  // namespace nibble
