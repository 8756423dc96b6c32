// Fiber: a function with a stack of its own that can stop in the middle and go on later. One runs
// for every thread of a block (executor.h). Nothing is ever unwound: a fiber that is not resumed
// again is forgotten, so what it runs must own nothing.
#pragma once

#include <cstddef>
#include <memory>

namespace nibble {

class Fiber {
 public:
  Fiber();

  // Makes it a call of entry(argument) from the start; entry must end in suspend().
  void start(void (*entry)(void*), void* argument);
  // Runs it until it suspends.
  void resume();
  // Called by what it runs: back to resume's caller.
  void suspend();

 private:
  struct Context;
  struct Delete {
    void operator()(Context* context) const;
  };
  std::unique_ptr<std::byte[]> stack_;
  std::unique_ptr<Context, Delete> context_;
};

}  // namespace nibble
