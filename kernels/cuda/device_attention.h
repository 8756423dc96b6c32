// DeviceAttention: causal attention of grouped queries with a running softmax over blocks of keys,
// as kernels/attention.h: the equations and their sources are there.
//
// A block of 4 warps has 64 queries of one head, 16 a warp, and goes through 64 keys at a time, the
// next of which are copied meanwhile. Both products are mma with float sums; probabilities are
// rounded to T between them. Queries and keys are contracted along the head, of which a lane owns
// four neighbouring columns in each 16, so that fragments are 8-byte loads; the probabilities of
// two tiles of keys are, as they stand, the 16-row operand of the second product; its other operand
// pairs two keys' values of one column, made of words of two columns by two permutes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/rows.h"

namespace nibble {

template <typename T>
struct DeviceAttentionArguments {
  int windows = 1;  // sequences
  int queries = 0;  // of a sequence: the last of its positions
  int keys = 0;     // of a sequence
  int heads = 1;
  int key_value_heads = 1;  // divides heads
  int head_size = 0;        // a multiple of 8
  int sliding_window = 0;   // positions that a query sees, its own included; 0: all
  float scale = 1.F;        // of the scores
  // Rows at multiples of 16 bytes: [windows * queries, heads * head_size], [windows * keys,
  // key_value_heads * head_size], with strides.
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  T* out = nullptr;  // [windows * queries, heads * head_size]
};

// T: F16, BF16. Heads of up to kHeadSize columns: 64, 128.
template <typename T, int kHeadSize>
struct DeviceAttention {
  using Arguments = DeviceAttentionArguments<T>;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kBlocks = 2;
  static constexpr int kQueries = 16 * kWarps;  // of a block
  static constexpr int kKeys = 64;              // of a step
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kSteps = kHeadSize / 16;
  static_assert(kHeadSize % 16 == 0);
  // Bytes from row to row in shared memory, so that the lanes of a load have banks of their own:
  // eight keys, four neighbouring lanes each 8 bytes of one; four pairs of keys' values, eight
  // neighbouring lanes each 4 bytes of one.
  static constexpr int kKeyRow = 2 * kHeadSize + 32;
  static constexpr int kValueRow = 2 * kHeadSize + 16;
  static constexpr int kStageBytes = kKeys * (kKeyRow + kValueRow);
  static constexpr int kSharedBytes = 2 * kStageBytes;

  static int64_t blocks(const Arguments& a) {
    const int64_t tiles = (a.queries + kQueries - 1) / kQueries;
    return tiles * a.windows * a.heads;
  }

  // What a block works on. The last queries see most: their blocks are first.
  struct Place {
    int window;
    int head;
    int first_query;
    int first_position;  // of the first query
  };
  template <typename Gpu>
  NIBBLE_DEVICE static Place place(const Gpu& gpu, const Arguments& a) {
    const int tiles = (a.queries + kQueries - 1) / kQueries;
    const int sequences = a.windows * a.heads;
    const int first = (tiles - 1 - gpu.block() / sequences) * kQueries;
    const int rest = gpu.block() % sequences;
    return {rest / a.heads, rest % a.heads, first, a.keys - a.queries + first};
  }

  // Sixteen bytes at a time of the keys and values [first, first + kKeys), zero beyond the head's
  // columns and the sequence's keys.
  template <typename Gpu>
  NIBBLE_DEVICE static void copy_keys(const Gpu& gpu, const Arguments& a, const Place& at,
                                      int first, std::byte* stage) {
    constexpr int kPieces = kHeadSize / 8;
    const int column = at.head / (a.heads / a.key_value_heads) * a.head_size;
    NIBBLE_UNROLL
    for (int i = 0; i < kKeys * kPieces / kThreads; ++i) {
      const int key = (i * kThreads + gpu.thread()) / kPieces;
      const int piece = gpu.thread() % kPieces;
      const bool is_there = first + key < a.keys && piece * 8 < a.head_size;
      const int64_t row =
          is_there ? static_cast<int64_t>(at.window) * a.keys + first + key : int64_t{0};
      const int from = is_there ? column + piece * 8 : 0;
      const int bytes = is_there ? 16 : 0;
      gpu.copy_async(stage + key * kKeyRow + piece * 16, a.k + row * a.k_stride + from, bytes);
      gpu.copy_async(stage + kKeys * kKeyRow + key * kValueRow + piece * 16,
                     a.v + row * a.v_stride + from, bytes);
    }
  }

  // The warp's 16 queries: rows g and g + 8 of the lane, four columns of every 16.
  template <typename Gpu>
  NIBBLE_DEVICE static void load_queries(const Gpu& gpu, const Arguments& a, const Place& at,
                                         uint32_t (&q)[kSteps][4]) {
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = at.first_query + gpu.thread() / kWarpLanes * 16 + lane / 4 + half * 8;
      const int64_t row = static_cast<int64_t>(at.window) * a.queries + query;
      NIBBLE_UNROLL
      for (int s = 0; s < kSteps; ++s) {
        const int column = s * 16 + lane % 4 * 4;
        uint64_t four = 0;
        if (query < a.queries && column < a.head_size) {
          four = gpu.load(reinterpret_cast<const uint64_t*>(a.q + row * a.q_stride +
                                                            at.head * a.head_size + column));
        }
        q[s][half] = static_cast<uint32_t>(four);
        q[s][2 + half] = static_cast<uint32_t>(four >> 32);
      }
    }
  }

  // Running softmax of the lane's rows g and g + 8, and the sums of values.
  struct State {
    float largest[2];
    float total[2];  // the lane's share
    float out[2 * kSteps][4];
  };

  template <typename Gpu>
  NIBBLE_DEVICE static void score_keys(const Gpu& gpu, const std::byte* stage,
                                       const uint32_t (&q)[kSteps][4],
                                       float (&scores)[kKeyTiles][4]) {
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      NIBBLE_UNROLL
      for (int j = 0; j < kKeyTiles; ++j) {
        const std::byte* at = stage + (8 * j + lane / 4) * kKeyRow + s * 32 + lane % 4 * 8;
        const uint64_t four = gpu.load_shared(reinterpret_cast<const uint64_t*>(at));
        const uint32_t b[2] = {static_cast<uint32_t>(four), static_cast<uint32_t>(four >> 32)};
        gpu.mma(T{}, scores[j], q[s], b);
      }
    }
  }

  // Scores, scaled for exp2, become probabilities before division; `first`: position of key 0.
  template <typename Gpu>
  NIBBLE_DEVICE static void softmax_keys(const Gpu& gpu, const Arguments& a, const Place& at,
                                         int first, float (&scores)[kKeyTiles][4], State& state) {
    const int lane = gpu.thread() % kWarpLanes;
    const float scale = a.scale * kLog2E;
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int position = at.first_position + gpu.thread() / kWarpLanes * 16 + lane / 4 + half * 8;
      const int oldest = a.sliding_window == 0 ? 0 : position + 1 - a.sliding_window;
      float largest = state.largest[half];
      NIBBLE_UNROLL
      for (int i = 0; i < 2 * kKeyTiles; ++i) {
        float& score = scores[i / 2][half * 2 + i % 2];
        const int key = first + i / 2 * 8 + lane % 4 * 2 + i % 2;
        score = key <= position && key >= oldest ? score * scale : kMinusInfinity;
        largest = larger(largest, score);
      }
      largest = reduce_warp<4>(gpu, largest, larger);
      // A row that has seen no key yet keeps its zeros.
      const float shift = largest == kMinusInfinity ? 0.F : largest;
      const float factor = gpu.exp2(state.largest[half] - shift);
      state.largest[half] = largest;
      float total = 0.F;
      NIBBLE_UNROLL
      for (int i = 0; i < 2 * kKeyTiles; ++i) {
        float& score = scores[i / 2][half * 2 + i % 2];
        score = gpu.exp2(score - shift);
        total += score;
      }
      state.total[half] = gpu.fma(state.total[half], factor, total);
      NIBBLE_UNROLL
      for (int i = 0; i < 4 * kSteps; ++i) state.out[i / 2][half * 2 + i % 2] *= factor;
    }
  }

  // Column c of tile 2 n of `out` is column 16 n + 2 c of the head, of tile 2 n + 1 the next one.
  template <typename Gpu>
  NIBBLE_DEVICE static void add_values(const Gpu& gpu, const std::byte* stage,
                                       const float (&p)[kKeyTiles][4], State& state) {
    const int lane = gpu.thread() % kWarpLanes;
    const std::byte* values = stage + kKeys * kKeyRow;
    NIBBLE_UNROLL
    for (int c = 0; c < kKeyTiles / 2; ++c) {
      const uint32_t a[4] = {gpu.round2(T{}, p[2 * c][0], p[2 * c][1]),
                             gpu.round2(T{}, p[2 * c][2], p[2 * c][3]),
                             gpu.round2(T{}, p[2 * c + 1][0], p[2 * c + 1][1]),
                             gpu.round2(T{}, p[2 * c + 1][2], p[2 * c + 1][3])};
      NIBBLE_UNROLL
      for (int n = 0; n < kSteps; ++n) {
        const auto word = [&](int key) {
          const std::byte* at =
              values + (16 * c + lane % 4 * 2 + key) * kValueRow + n * 32 + lane / 4 * 4;
          return gpu.load_shared(reinterpret_cast<const uint32_t*>(at));
        };
        const uint32_t v[4] = {word(0), word(1), word(8), word(9)};
        const uint32_t even[2] = {gpu.permute(v[0], v[1], 0x5410), gpu.permute(v[2], v[3], 0x5410)};
        const uint32_t odd[2] = {gpu.permute(v[0], v[1], 0x7632), gpu.permute(v[2], v[3], 0x7632)};
        gpu.mma(T{}, state.out[2 * n], a, even);
        gpu.mma(T{}, state.out[2 * n + 1], a, odd);
      }
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void store_rows(const Gpu& gpu, const Arguments& a, const Place& at,
                                       const State& state) {
    const int lane = gpu.thread() % kWarpLanes;
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float total =
          reduce_warp<4>(gpu, state.total[half], [](float x, float y) { return x + y; });
      const float factor = 1.F / total;
      const int query = at.first_query + gpu.thread() / kWarpLanes * 16 + lane / 4 + half * 8;
      const int64_t row = static_cast<int64_t>(at.window) * a.queries + query;
      NIBBLE_UNROLL
      for (int n = 0; n < kSteps; ++n) {
        const int column = n * 16 + lane % 4 * 4;
        if (query >= a.queries || column >= a.head_size) continue;
        const float* even = state.out[2 * n] + 2 * half;
        const float* odd = state.out[2 * n + 1] + 2 * half;
        const uint64_t low = gpu.round2(T{}, even[0] * factor, odd[0] * factor);
        const uint64_t high = gpu.round2(T{}, even[1] * factor, odd[1] * factor);
        T* out = a.out + (row * a.heads + at.head) * a.head_size + column;
        gpu.store(reinterpret_cast<uint64_t*>(out), high << 32 | low);
      }
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void run(const Gpu& gpu, const Arguments& a) {
    const Place at = place(gpu, a);
    const int oldest = a.sliding_window == 0 ? 0 : at.first_position + 1 - a.sliding_window;
    const int first_step = oldest > 0 ? oldest / kKeys : 0;
    const int last_query =
        at.first_query + kQueries < a.queries ? kQueries : a.queries - at.first_query;
    const int steps = (at.first_position + last_query + kKeys - 1) / kKeys;
    const auto stage = [&](int step) { return gpu.shared() + step % 2 * kStageBytes; };
    copy_keys(gpu, a, at, first_step * kKeys, stage(first_step));
    gpu.commit_copies();
    uint32_t q[kSteps][4];
    load_queries(gpu, a, at, q);
    State state{};
    state.largest[0] = state.largest[1] = kMinusInfinity;
    for (int step = first_step; step < steps; ++step) {
      gpu.wait_copies(Constant<0>{});
      gpu.sync();  // all copies have arrived, and the other stage was read
      if (step + 1 < steps) copy_keys(gpu, a, at, (step + 1) * kKeys, stage(step + 1));
      gpu.commit_copies();
      float scores[kKeyTiles][4]{};
      score_keys(gpu, stage(step), q, scores);
      softmax_keys(gpu, a, at, step * kKeys, scores, state);
      add_values(gpu, stage(step), scores, state);
    }
    store_rows(gpu, a, at, state);
  }
};

}  // namespace nibble
