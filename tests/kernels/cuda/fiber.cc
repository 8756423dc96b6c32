#include "tests/kernels/cuda/fiber.h"

#include <cstddef>
#include <cstdint>
#include <memory>

#ifndef __x86_64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#ifdef __x86_64__
// Saves the registers that a call preserves, exchanges the stacks, restores. swapcontext does the
// same with two system calls, at 50 times the cost.
extern "C" void nibble_switch_stacks(void** save, void* load);
extern "C" void nibble_enter_fiber();
asm(R"(
.text
nibble_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
nibble_enter_fiber:
  movq %r13, %rdi
  callq *%r12
  ud2
)");
#endif

namespace nibble {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;

// Frames that were left without returning keep their red zones.
void forget_frames([[maybe_unused]] std::byte* stack) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack, kStackBytes);
#endif
}

}  // namespace

#ifdef __x86_64__

struct Fiber::Context {
  void* inside = nullptr;
  void* outside = nullptr;
};

void Fiber::start(void (*entry)(void*), void* argument) {
  forget_frames(stack_.get());
  auto* const end = reinterpret_cast<unsigned char*>(stack_.get()) + kStackBytes;
  auto* const top = end - reinterpret_cast<uintptr_t>(end) % 16;
  auto* frame = reinterpret_cast<uintptr_t*>(top) - 7;  // r15 r14 r13 r12 rbx rbp, return address
  frame[0] = frame[1] = frame[4] = frame[5] = 0;
  frame[2] = reinterpret_cast<uintptr_t>(argument);
  frame[3] = reinterpret_cast<uintptr_t>(entry);
  frame[6] = reinterpret_cast<uintptr_t>(&nibble_enter_fiber);
  context_->inside = frame;
}

void Fiber::resume() { nibble_switch_stacks(&context_->outside, context_->inside); }
void Fiber::suspend() { nibble_switch_stacks(&context_->inside, context_->outside); }

#else

struct Fiber::Context {
  ucontext_t inside;
  ucontext_t outside;
  void (*entry)(void*);
  void* argument;
};

namespace {

// makecontext passes only int: the pointer goes in two halves.
void enter(unsigned high, unsigned low) {
  const auto address = static_cast<uint64_t>(high) << 32 | low;
  auto* call = reinterpret_cast<void (**)(void*)>(address);
  (*call)(*reinterpret_cast<void**>(call + 1));
}

}  // namespace

void Fiber::start(void (*entry)(void*), void* argument) {
  forget_frames(stack_.get());
  context_->entry = entry;
  context_->argument = argument;
  getcontext(&context_->inside);
  context_->inside.uc_stack.ss_sp = stack_.get();
  context_->inside.uc_stack.ss_size = kStackBytes;
  const auto address = reinterpret_cast<uint64_t>(&context_->entry);
  makecontext(&context_->inside, reinterpret_cast<void (*)()>(&enter), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
}

void Fiber::resume() { swapcontext(&context_->outside, &context_->inside); }
void Fiber::suspend() { swapcontext(&context_->inside, &context_->outside); }

#endif

// The stack is not touched before it is used: most of it never is.
Fiber::Fiber() : stack_(new std::byte[kStackBytes]), context_(new Context()) {}

void Fiber::Delete::operator()(Context* context) const { delete context; }

}  // namespace nibble
