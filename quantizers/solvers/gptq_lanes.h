// The inner loops of GPTQ, refinement and the scale search, one table of functions per instruction
// set. Rows of the weight matrix lie in the lanes of vectors: arrays are [columns][rows], 64 rows
// at a time. Private to quantizers/solvers and its tests.
//
// All paths give the same bits: every operation of a lane is one IEEE operation, in the order
// written here.
#pragma once

#include <cstdint>
#include <span>

namespace nibble {

inline constexpr int64_t kLanes = 64;          // rows
inline constexpr int64_t kBlockColumns = 128;  // at most, of round_columns

// Columns taken one after the other, each moved by the changes of those before it:
//   t = target_k + sum over i < k of coupling[k, i] * change_i
//   level_k = clamp(rne(t / scale_k), first_k, first_k + last), or the nearest of a table's levels
//   change_k = from_k - level_k * scale_k
// GPTQ: target = from = the weights; coordinate descent: from = the weights as quantized so far.
struct ColumnBlock {
  int64_t columns = 0;      // at most kBlockColumns
  int64_t rows_stride = 0;  // between columns of target, from, change, levels; at least kLanes
  const float* coupling = nullptr;  // [columns, columns] row-major, only below the diagonal
  int64_t coupling_stride = 0;
  const float* target = nullptr;        // [columns][kLanes]
  const float* from = nullptr;          // [columns][kLanes]
  const float* const* scale = nullptr;  // per column: [kLanes] of its group
  const float* const* first = nullptr;  // per column: [kLanes], lowest level minus zero point
  float last = 15.f;                    // 2^bits - 1
  // Of a table: [levels] rising, and [levels - 1] what lies between, at which the upper level
  // begins. 0: integers; first and last take no part otherwise.
  int levels = 0;
  const float* level_values = nullptr;
  const float* borders = nullptr;
  float* change = nullptr;  // [columns][kLanes]
  float* level = nullptr;   // [columns][kLanes] code + first
};

// The error of rounding a group of columns with each of several scales.
struct GroupSearch {
  int64_t columns = 0;
  const float* const* weights = nullptr;  // per column: [kLanes]
  const float* importance = nullptr;      // [columns]; null: 1 each, and norm 2.4 instead of 2
  int64_t candidates = 0;                 // a multiple of 4
  const float* scale = nullptr;           // [candidates][kLanes]
  const float* first = nullptr;           // [candidates][kLanes]
  float last = 15.f;
  // [candidates][kLanes] sum of importance * |w - q|^2, or of (|w - q| / scale)^2.4
  float* error = nullptr;
};

struct LanePath {
  const char* name;
  void (*round_columns)(const ColumnBlock& block);
  void (*search_group)(const GroupSearch& search);
};

extern const LanePath kScalarLanes;
extern const LanePath kAvx2Lanes;
extern const LanePath kAvx512Lanes;

// Those that may run here, the fastest last.
std::span<const LanePath* const> lane_paths();

}  // namespace nibble
