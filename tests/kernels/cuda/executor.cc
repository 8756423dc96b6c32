#include "tests/kernels/cuda/executor.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"
#include "src/tensor/convert.h"
#include "tests/kernels/cuda/fiber.h"

namespace nibble {
namespace {

constexpr size_t kGuardBytes = 256;

}  // namespace

std::byte* GlobalMemory::add(size_t bytes, Access access) {
  Array array;
  array.storage = std::make_unique<std::byte[]>(bytes + 2 * kGuardBytes);
  const auto address = reinterpret_cast<uintptr_t>(array.storage.get());
  array.begin = array.storage.get() + (kGuardBytes - address % kGuardBytes);
  array.bytes = bytes;
  array.access = access;
  if (access != Access::kInput) array.history.resize(bytes);
  if (access == Access::kCounter) {
    for (Byte& byte : array.history) byte.written = true;
  }
  arrays_.push_back(std::move(array));
  return arrays_.back().begin;
}

// One launch: the threads of the block that runs, its shared memory and what was done to it.
class Launch {
 public:
  using Access = GlobalMemory::Access;

  Launch(const LaunchSize& size, GlobalMemory& memory, std::function<void(const Lane&)> kernel)
      : size_(size), memory_(memory), kernel_(std::move(kernel)) {
    shared_.resize(size.shared_bytes / 16 + 1);
    fences_.resize(static_cast<size_t>(size.blocks) * static_cast<size_t>(size.threads));
    threads_.resize(static_cast<size_t>(size.threads));
    for (GlobalMemory::Array& array : memory.arrays_) {
      for (GlobalMemory::Byte& byte : array.history) byte.time = 0;
    }
    warps_.resize(static_cast<size_t>(size.threads + kWarpLanes - 1) / kWarpLanes);
  }

  std::string run() {
    if (size_.threads % kWarpLanes != 0) return "the block is no whole number of warps";
    for (block_ = 0; block_ < size_.blocks && problem_.empty(); ++block_) run_block();
    if (problem_.empty()) check_outputs();
    return problem_;
  }

  int block() const { return block_; }
  int blocks() const { return size_.blocks; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }

  void read_global(int thread, const void* p, size_t bytes, size_t alignment, bool coherent);
  void write_global(int thread, const void* p, size_t bytes, size_t alignment);
  void atomic_access(int thread, const uint32_t* p);
  void access_shared(int thread, const void* p, size_t bytes, size_t alignment, bool write);
  void copy_async(int thread, void* shared, const void* global, int bytes);
  void commit_copies(int thread);
  void finish_copies(int thread, int pending);
  void fence(int thread) { fences_[everywhere(thread)] = ++time_; }

  // All lanes of the warp (threads of the block) come to `what`; the last one does `work`.
  template <typename Operand, typename Work>
  void meet_warp(int thread, const char* what, Operand operand, const Work& work);
  void meet_block(int thread);
  void end_warp_step(int thread) { ++warps_[thread / kWarpLanes].time; }

 private:
  static constexpr int kNobody = -1;

  struct Copy {
    std::byte* to = nullptr;
    std::array<std::byte, 16> bytes{};
  };
  struct Thread {
    Fiber fiber;
    const char* waits_for = nullptr;  // nullptr: it can go on
    bool ended = false;
    std::vector<Copy> copies_to_commit;
    std::deque<std::vector<Copy>> copies;
  };
  struct Warp {
    const char* what = nullptr;
    int arrived = 0;
    std::array<void*, kWarpLanes> operands{};
    uint32_t time = 0;  // counts sync_warp
  };
  // Who touched a byte of shared memory between the last two barriers, and in his warp's time.
  struct SharedByte {
    uint32_t write_step = 0;
    uint32_t write_time = 0;
    int writer = kNobody;
    uint32_t read_step = 0;
    uint32_t read_time = 0;
    std::array<int, 2> readers{kNobody, kNobody};  // the last two
    uint32_t read_warps = 0;                       // bit w: of warp w
    bool written = false;
    int copied_by = kNobody;  // a copy of his is under way
  };
  struct Argument {
    Launch* launch;
    int thread;
  };

  size_t everywhere(int thread) const {
    return static_cast<size_t>(block_) * static_cast<size_t>(size_.threads) +
           static_cast<size_t>(thread);
  }
  void run_block();
  void report_deadlock();
  void check_outputs();
  // Ends the launch; the thread that calls it goes no further.
  [[noreturn]] void fail(int thread, const std::string& problem);
  void wait(int thread, const char* what);
  GlobalMemory::Array* find(const void* p, size_t bytes);
  void check_alignment(int thread, const void* p, size_t alignment);
  bool unordered(int thread, int other, uint32_t time) const;
  void check_shared_write(int thread, const SharedByte& byte, size_t at);
  void mark_shared_write(int thread, SharedByte& byte);
  void mark_shared_read(int thread, SharedByte& byte);
  void check_shared_read(int thread, const SharedByte& byte, size_t at);
  size_t shared_offset(int thread, const void* p, size_t bytes);

  LaunchSize size_;
  GlobalMemory& memory_;
  std::function<void(const Lane&)> kernel_;
  std::string problem_;
  int block_ = 0;
  std::vector<Words4> shared_;
  std::vector<SharedByte> history_;
  uint32_t step_ = 1;  // counts barriers
  int at_barrier_ = 0;
  uint32_t time_ = 0;
  std::vector<uint32_t> fences_;  // [all threads] time of the last one
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
};

void Launch::run_block() {
  std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Words4));  // NaN
  history_.assign(size_.shared_bytes, {});
  for (Warp& warp : warps_) warp = {};
  at_barrier_ = 0;
  std::vector<Argument> arguments;
  for (int i = 0; i < size_.threads; ++i) arguments.push_back({this, i});
  for (int i = 0; i < size_.threads; ++i) {
    Thread& thread = threads_[i];
    thread.waits_for = nullptr;
    thread.ended = false;
    thread.copies.clear();
    thread.copies_to_commit.clear();
    const auto entry = [](void* p) {
      const Argument argument = *static_cast<Argument*>(p);
      argument.launch->kernel_(Lane(*argument.launch, argument.thread));
      Thread& self = argument.launch->threads_[argument.thread];
      self.ended = true;
      self.fiber.suspend();
    };
    thread.fiber.start(entry, &arguments[i]);
  }
  for (bool moved = true; moved && problem_.empty();) {
    moved = false;
    for (Thread& thread : threads_) {
      if (thread.ended || thread.waits_for != nullptr) continue;
      moved = true;
      thread.fiber.resume();
      if (!problem_.empty()) return;
    }
  }
  report_deadlock();
}

void Launch::report_deadlock() {
  int ended = 0;
  const Thread* waiting = nullptr;
  for (const Thread& thread : threads_) {
    ended += thread.ended ? 1 : 0;
    if (!thread.ended) waiting = &thread;
  }
  if (waiting == nullptr) return;
  problem_ = "block " + std::to_string(block_) + ": thread " +
             std::to_string(waiting - threads_.data()) + " waits for others at " +
             waiting->waits_for + ", " + std::to_string(ended) + " threads have ended";
}

void Launch::check_outputs() {
  for (size_t i = 0; i < memory_.arrays_.size(); ++i) {
    const GlobalMemory::Array& array = memory_.arrays_[i];
    if (array.access != Access::kOutput) continue;
    const auto unwritten = std::find_if(array.history.begin(), array.history.end(),
                                        [](const auto& byte) { return !byte.written; });
    if (unwritten == array.history.end()) continue;
    problem_ = "array " + std::to_string(i) + ": byte " +
               std::to_string(unwritten - array.history.begin()) + " of " +
               std::to_string(array.bytes) + " was not written";
    return;
  }
}

void Launch::fail(int thread, const std::string& problem) {
  problem_ =
      "block " + std::to_string(block_) + ", thread " + std::to_string(thread) + ": " + problem;
  threads_[thread].fiber.suspend();
  __builtin_unreachable();
}

void Launch::wait(int thread, const char* what) {
  threads_[thread].waits_for = what;
  threads_[thread].fiber.suspend();
}

void Launch::check_alignment(int thread, const void* p, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) {
    fail(thread, "address is no multiple of " + std::to_string(alignment));
  }
}

GlobalMemory::Array* Launch::find(const void* p, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(p);
  for (GlobalMemory::Array& array : memory_.arrays_) {
    if (first >= array.begin && first + bytes <= array.begin + array.bytes) return &array;
  }
  return nullptr;
}

void Launch::read_global(int thread, const void* p, size_t bytes, size_t alignment, bool coherent) {
  const GlobalMemory::Array* array = find(p, bytes);
  if (array == nullptr) fail(thread, "reads outside all arrays");
  check_alignment(thread, p, alignment);
  if (array->access == Access::kInput) return;
  const auto first = static_cast<size_t>(static_cast<const std::byte*>(p) - array->begin);
  for (size_t i = first; i < first + bytes; ++i) {
    const GlobalMemory::Byte& byte = array->history[i];
    const auto where = [&] {
      return " byte " + std::to_string(i) + " of array " +
             std::to_string(array - memory_.arrays_.data());
    };
    if (!byte.written) fail(thread, "reads" + where() + ", which nobody wrote");
    if (byte.time == 0) continue;
    if (!coherent) fail(thread, "reads" + where() + ", which was written, by a load of constants");
    const bool other_block =
        byte.thread / static_cast<uint32_t>(size_.threads) != static_cast<uint32_t>(block_);
    if (other_block && fences_[byte.thread] < byte.time) {
      fail(thread, "reads" + where() + " of another block, which had no fence after its write");
    }
  }
}

void Launch::write_global(int thread, const void* p, size_t bytes, size_t alignment) {
  GlobalMemory::Array* array = find(p, bytes);
  if (array == nullptr) fail(thread, "writes outside all arrays");
  check_alignment(thread, p, alignment);
  if (array->access == Access::kInput) fail(thread, "writes to an input");
  const auto first = static_cast<size_t>(static_cast<const std::byte*>(p) - array->begin);
  ++time_;
  for (size_t i = first; i < first + bytes; ++i) {
    GlobalMemory::Byte& byte = array->history[i];
    const bool other_block = byte.time != 0 && byte.thread / static_cast<uint32_t>(size_.threads) !=
                                                   static_cast<uint32_t>(block_);
    if (array->access == Access::kOutput && other_block) {
      fail(thread, "writes byte " + std::to_string(i) + " of an output that another block wrote");
    }
    byte = {time_, static_cast<uint32_t>(everywhere(thread)), true};
  }
}

// Atomics of all blocks see each other; they order nothing else.
void Launch::atomic_access(int thread, const uint32_t* p) {
  read_global(thread, p, sizeof(*p), alignof(uint32_t), true);
  write_global(thread, p, sizeof(*p), alignof(uint32_t));
  GlobalMemory::Array* array = find(p, sizeof(*p));
  const auto first = reinterpret_cast<const std::byte*>(p) - array->begin;
  for (size_t i = 0; i < sizeof(*p); ++i) array->history[static_cast<size_t>(first) + i].time = 0;
}

size_t Launch::shared_offset(int thread, const void* p, size_t bytes) {
  const std::byte* begin = shared();
  const auto* first = static_cast<const std::byte*>(p);
  if (first < begin || first + bytes > begin + size_.shared_bytes) {
    fail(thread, "touches an address outside its shared memory");
  }
  return static_cast<size_t>(first - begin);
}

// Whether an access of `other` in this step, at his warp's `time`, has no order with one of
// `thread` now.
bool Launch::unordered(int thread, int other, uint32_t time) const {
  if (other == kNobody || other == thread) return false;
  const int warp = thread / kWarpLanes;
  return other / kWarpLanes != warp || time == warps_[warp].time;
}

void Launch::check_shared_read(int thread, const SharedByte& byte, size_t at) {
  const auto where = [at] { return " shared byte " + std::to_string(at); };
  if (byte.copied_by != kNobody) fail(thread, "reads" + where() + " while it is being copied");
  if (!byte.written) fail(thread, "reads" + where() + ", which nobody wrote");
  if (byte.write_step == step_ && unordered(thread, byte.writer, byte.write_time)) {
    fail(thread, "reads" + where() + ", which thread " + std::to_string(byte.writer) +
                     " wrote, without a barrier between");
  }
}

void Launch::mark_shared_read(int thread, SharedByte& byte) {
  const int warp = thread / kWarpLanes;
  if (byte.read_step != step_) {
    byte.readers = {kNobody, kNobody};
    byte.read_warps = 0;
  }
  if (byte.readers[0] != thread) byte.readers = {thread, byte.readers[0]};
  byte.read_warps |= uint32_t{1} << warp;
  byte.read_step = step_;
  byte.read_time = warps_[warp].time;
}

void Launch::check_shared_write(int thread, const SharedByte& byte, size_t at) {
  const auto where = [at] { return " shared byte " + std::to_string(at); };
  if (byte.copied_by != kNobody) fail(thread, "writes" + where() + " while it is being copied");
  if (byte.write_step == step_ && unordered(thread, byte.writer, byte.write_time)) {
    fail(thread, "writes" + where() + ", which thread " + std::to_string(byte.writer) +
                     " wrote, without a barrier between");
  }
  if (byte.read_step != step_) return;
  const bool other_warp = (byte.read_warps & ~(uint32_t{1} << thread / kWarpLanes)) != 0;
  if (other_warp || unordered(thread, byte.readers[0], byte.read_time) ||
      unordered(thread, byte.readers[1], byte.read_time)) {
    fail(thread, "writes" + where() + ", which others read, without a barrier between");
  }
}

void Launch::mark_shared_write(int thread, SharedByte& byte) {
  byte.writer = thread;
  byte.write_step = step_;
  byte.write_time = warps_[thread / kWarpLanes].time;
  byte.written = true;
}

void Launch::access_shared(int thread, const void* p, size_t bytes, size_t alignment, bool write) {
  const size_t first = shared_offset(thread, p, bytes);
  check_alignment(thread, p, alignment);
  for (size_t i = first; i < first + bytes; ++i) {
    SharedByte& byte = history_[i];
    if (write) {
      check_shared_write(thread, byte, i);
      mark_shared_write(thread, byte);
    } else {
      check_shared_read(thread, byte, i);
      mark_shared_read(thread, byte);
    }
  }
}

// The bytes arrive when they are waited for, no earlier: who reads them before is found out.
void Launch::copy_async(int thread, void* shared, const void* global, int bytes) {
  if (bytes < 0 || bytes > 16) fail(thread, "copies no 0 to 16 bytes");
  const size_t first = shared_offset(thread, shared, 16);
  check_alignment(thread, shared, 16);
  Copy copy{.to = static_cast<std::byte*>(shared)};
  if (bytes > 0) {
    read_global(thread, global, static_cast<size_t>(bytes), 16, false);
    std::memcpy(copy.bytes.data(), global, static_cast<size_t>(bytes));
  }
  for (size_t i = first; i < first + 16; ++i) {
    check_shared_write(thread, history_[i], i);
    history_[i].copied_by = thread;
  }
  threads_[thread].copies_to_commit.push_back(copy);
}

void Launch::commit_copies(int thread) {
  Thread& self = threads_[thread];
  self.copies.push_back(std::exchange(self.copies_to_commit, {}));
}

void Launch::finish_copies(int thread, int pending) {
  Thread& self = threads_[thread];
  while (static_cast<int>(self.copies.size()) > pending) {
    for (const Copy& copy : self.copies.front()) {
      std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
      const auto first = static_cast<size_t>(copy.to - shared());
      for (size_t i = first; i < first + 16; ++i) {
        history_[i].copied_by = kNobody;
        mark_shared_write(thread, history_[i]);
      }
    }
    self.copies.pop_front();
  }
}

template <typename Operand, typename Work>
void Launch::meet_warp(int thread, const char* what, Operand operand, const Work& work) {
  Warp& warp = warps_[thread / kWarpLanes];
  if (warp.arrived > 0 && warp.what != what) {
    fail(thread, std::string("is at ") + what + ", others of its warp at " + warp.what);
  }
  warp.what = what;
  warp.operands[thread % kWarpLanes] = &operand;
  if (++warp.arrived < kWarpLanes) {
    wait(thread, what);
    return;
  }
  std::array<Operand*, kWarpLanes> operands;
  for (size_t i = 0; i < operands.size(); ++i)
    operands[i] = static_cast<Operand*>(warp.operands[i]);
  work(operands);
  warp.arrived = 0;
  const int first = thread / kWarpLanes * kWarpLanes;
  for (int i = first; i < first + kWarpLanes; ++i) threads_[i].waits_for = nullptr;
}

void Launch::meet_block(int thread) {
  if (++at_barrier_ < size_.threads) {
    wait(thread, "sync");
    return;
  }
  at_barrier_ = 0;
  ++step_;
  for (Thread& other : threads_) other.waits_for = nullptr;
}

// ---- the machine --------------------------------------------------------------------------------

int Lane::block() const { return launch_->block(); }
int Lane::blocks() const { return launch_->blocks(); }
std::byte* Lane::shared() const { return launch_->shared(); }
void Lane::read_global(const void* p, size_t bytes, size_t alignment, bool coherent) const {
  launch_->read_global(thread_, p, bytes, alignment, coherent);
}
void Lane::write_global(const void* p, size_t bytes, size_t alignment) const {
  launch_->write_global(thread_, p, bytes, alignment);
}
void Lane::read_shared(const void* p, size_t bytes, size_t alignment) const {
  launch_->access_shared(thread_, p, bytes, alignment, false);
}
void Lane::write_shared(const void* p, size_t bytes, size_t alignment) const {
  launch_->access_shared(thread_, p, bytes, alignment, true);
}
void Lane::copy_async(void* shared, const void* global, int bytes) const {
  launch_->copy_async(thread_, shared, global, bytes);
}
void Lane::commit_copies() const { launch_->commit_copies(thread_); }
void Lane::finish_copies(int pending) const { launch_->finish_copies(thread_, pending); }
void Lane::sync() const { launch_->meet_block(thread_); }
void Lane::fence() const { launch_->fence(thread_); }

void Lane::sync_warp() const {
  launch_->meet_warp(thread_, "sync_warp", 0,
                     [&](const auto&) { launch_->end_warp_step(thread_); });
}

uint32_t Lane::atomic_add(uint32_t* p, uint32_t value) const {
  launch_->atomic_access(thread_, p);
  return std::exchange(*p, *p + value);
}

float Lane::shuffle_xor(float value, int mask) const {
  struct Operand {
    float value;
    int mask;
    float* result;
  };
  float result = 0.F;
  launch_->meet_warp(thread_, "shuffle", Operand{value, mask, &result}, [](const auto& lanes) {
    for (size_t i = 0; i < lanes.size(); ++i) {
      *lanes[i]->result = lanes[(i ^ static_cast<size_t>(lanes[i]->mask)) % lanes.size()]->value;
    }
  });
  return result;
}

namespace {

// Operands and result of one lane.
template <typename Sum>
struct MmaOperand {
  Sum* d;
  const uint32_t* a;
  const uint32_t* b;
};

// d [16 x 8] += a [16 x 8 V] b [8 V x 8], V values to a register, as device.h lays them out.
template <int kCount, typename Sum, typename Value>
void multiply_tiles(const std::array<MmaOperand<Sum>*, kWarpLanes>& lanes,
                    Value (*value)(uint32_t)) {
  constexpr int kDepth = 8 * kCount;
  constexpr int kBits = 32 / kCount;
  constexpr uint32_t kMask = (uint32_t{1} << kBits) - 1;
  Value a[16][kDepth];
  Value b[8][kDepth];
  for (int k = 0; k < kDepth; ++k) {
    const int t = k % (4 * kCount) / kCount;
    const int high = k / (4 * kCount);
    const auto unpack = [&](uint32_t word) { return value(word >> k % kCount * kBits & kMask); };
    for (int row = 0; row < 16; ++row) {
      a[row][k] = unpack(lanes[row % 8 * 4 + t]->a[high * 2 + row / 8]);
    }
    for (int column = 0; column < 8; ++column)
      b[column][k] = unpack(lanes[column * 4 + t]->b[high]);
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      Sum& d = lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
      auto sum = static_cast<Value>(d);
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[column][k];
      d = static_cast<Sum>(sum);
    }
  }
}

double f16_value(uint32_t bits) { return f16_to_float(static_cast<uint16_t>(bits)); }
double bf16_value(uint32_t bits) { return bf16_to_float(static_cast<uint16_t>(bits)); }
int64_t s8_value(uint32_t bits) { return static_cast<int8_t>(bits); }

}  // namespace

void Lane::mma(F16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
  launch_->meet_warp(thread_, "mma f16", MmaOperand<float>{d, a, b},
                     [](const auto& lanes) { multiply_tiles<2>(lanes, f16_value); });
}
void Lane::mma(BF16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
  launch_->meet_warp(thread_, "mma bf16", MmaOperand<float>{d, a, b},
                     [](const auto& lanes) { multiply_tiles<2>(lanes, bf16_value); });
}
void Lane::mma(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
  launch_->meet_warp(thread_, "mma s8", MmaOperand<int32_t>{d, a, b},
                     [](const auto& lanes) { multiply_tiles<4>(lanes, s8_value); });
}

std::string execute(const LaunchSize& size, GlobalMemory& memory,
                    const std::function<void(const Lane&)>& kernel) {
  return Launch(size, memory, kernel).run();
}

}  // namespace nibble
