// Block executor: runs the kernels of kernels/cuda on the CPU, one block after the other, each
// thread a fiber that goes on until all lanes of its warp (or threads of its block) are where it
// waits for them. Slow, the same every time, and strict. A launch stops at the first
//   - access outside the arrays and the shared memory it was given, or at an unfit address
//   - read of memory that nobody wrote; write to an input
//   - two accesses to one byte of shared memory, one a write, by threads between which no barrier
//     is; touching the destination of a copy that was not waited for
//   - write of one byte of an output by two blocks; read of what another block wrote without its
//     fence, or by a load that may be stale
//   - warp instruction or barrier that some threads never come to, or come to elsewhere
// and says where. What is computed is what device.h says; mma adds in double and rounds once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/device.h"

namespace nibble {

// The arrays of a launch, each with room around it that belongs to nobody.
class GlobalMemory {
 public:
  enum class Access {
    kInput,
    kOutput,   // nothing in it yet; a byte is written by one block
    kScratch,  // nothing in it yet
    kCounter,  // zero at the start
  };

  template <typename T>
  const T* input(std::span<const T> values) {
    auto* array = reinterpret_cast<T*>(add(values.size_bytes(), Access::kInput));
    if (!values.empty()) std::memcpy(array, values.data(), values.size_bytes());
    return array;
  }
  template <typename T>
  T* allocate(size_t count, Access access) {
    return reinterpret_cast<T*>(add(count * sizeof(T), access));
  }

 private:
  friend class Launch;
  struct Byte {
    uint32_t time = 0;    // of the last write in the launch: counts all writes and fences; 0: none
    uint32_t thread = 0;  // that wrote it, counted over all blocks
    bool written = false;
  };
  struct Array {
    std::unique_ptr<std::byte[]> storage;
    std::byte* begin = nullptr;
    size_t bytes = 0;
    Access access = Access::kInput;
    std::vector<Byte> history;  // [bytes]; inputs have none
  };
  std::byte* add(size_t bytes, Access access);

  std::vector<Array> arrays_;
};

class Launch;

// The machine of device.h for one thread.
class Lane {
 public:
  int thread() const { return thread_; }
  int block() const;
  int blocks() const;
  std::byte* shared() const;

  template <typename T>
  T load(const T* p) const {
    read_global(p, sizeof(T), alignof(T), false);
    return *p;
  }
  template <typename T>
  T load_once(const T* p) const {
    return load(p);
  }
  template <typename T>
  T load_coherent(const T* p) const {
    read_global(p, sizeof(T), alignof(T), true);
    return *p;
  }
  template <typename T>
  void store(T* p, const T& value) const {
    write_global(p, sizeof(T), alignof(T));
    *p = value;
  }
  template <typename T>
  T load_shared(const T* p) const {
    read_shared(p, sizeof(T), alignof(T));
    return *p;
  }
  template <typename T>
  void store_shared(T* p, const T& value) const {
    write_shared(p, sizeof(T), alignof(T));
    *p = value;
  }

  void copy_async(void* shared, const void* global, int bytes) const;
  void commit_copies() const;
  template <int kPending>
  void wait_copies(Constant<kPending>) const {
    finish_copies(kPending);
  }

  void sync() const;
  void sync_warp() const;
  void fence() const;
  uint32_t atomic_add(uint32_t* p, uint32_t value) const;
  float shuffle_xor(float value, int mask) const;

  void mma(F16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const;
  void mma(BF16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const;
  void mma(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const;

  template <int kTable>
  static uint32_t lop3(Constant<kTable>, uint32_t a, uint32_t b, uint32_t c) {
    return lop3(kTable, a, b, c);
  }
  static uint32_t permute(uint32_t a, uint32_t b, uint32_t selector);
  static float fma(float a, float b, float c);
  static uint32_t fma2(F16, uint32_t a, uint32_t b, uint32_t c);
  static uint32_t fma2(BF16, uint32_t a, uint32_t b, uint32_t c);
  static float to_float(F16 value);
  static float to_float(BF16 value);
  static float bits_to_float(uint32_t bits);
  static F16 round(F16, float value);
  static BF16 round(BF16, float value);
  static uint32_t round2(F16, float low, float high);
  static uint32_t round2(BF16, float low, float high);
  static float sqrt(float value);
  static float exp2(float value);
  static int round_to_integer(float value);

 private:
  friend class Launch;
  Lane(Launch& launch, int thread) : launch_(&launch), thread_(thread) {}

  void read_global(const void* p, size_t bytes, size_t alignment, bool coherent) const;
  void write_global(const void* p, size_t bytes, size_t alignment) const;
  void read_shared(const void* p, size_t bytes, size_t alignment) const;
  void write_shared(const void* p, size_t bytes, size_t alignment) const;
  void finish_copies(int pending) const;
  static uint32_t lop3(int table, uint32_t a, uint32_t b, uint32_t c);

  Launch* launch_;
  int thread_;
};

struct LaunchSize {
  int blocks = 1;
  int threads = 32;
  size_t shared_bytes = 0;
};

// Empty, or what the kernel did wrong first. Afterwards every byte of every output is written, or
// that is what it did wrong.
std::string execute(const LaunchSize& size, GlobalMemory& memory,
                    const std::function<void(const Lane&)>& kernel);

}  // namespace nibble
