#include "kernels/cuda/plan.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>

#include "formats/packing/packing.h"
#include "kernels/cuda/choice.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fragment_linear.h"
#include "kernels/cuda/stream_k.h"
#include "kernels/cuda/weights.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// From so many tokens on, 16-bit products with weights multiplied out once are faster than tiles
// that convert every weight for each 48 tokens. An estimate from rates of the literature, not yet
// measured: per weight and token, tiles take 2 (48 + 16) / 48 FLOP at the rate of mma.sync, a dense
// product 2 FLOP at cuBLAS's; multiplying out moves 2.5 bytes a weight, once. H200, 640 and 650
// TFLOP/s, 4.8 TB/s: 520 fs against 1.1 fs a token, from 480 tokens on. A100, 265 TFLOP/s, 1.5
// TB/s: 660; RTX 4090, 140 TFLOP/s, 1 TB/s: 525.
constexpr int64_t kFewestDenseTokens = 512;

// The system keeps so much for itself of every block's shared memory.
constexpr int kReservedSharedBytes = 1 << 10;

bool takes_integers(FragmentKind kind) {
  return kind == FragmentKind::kInteger8 || kind == FragmentKind::kInteger4;
}

// A tile converts every weight once: what 16 tokens cost to multiply. The fewest of both, and
// larger tiles among equals.
int tile_tokens(int64_t M, bool integers) {
  if (M <= 8) return 8;
  if (M <= kMostFewTokens) return 16;
  int best = 0;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const int tokens : {16, 32, 48}) {
    if (tokens <= kMostFewTokens && !integers) continue;
    const int64_t cost = divide_up(M, tokens) * (tokens + 16);
    if (cost <= least) {
      least = cost;
      best = tokens;
    }
  }
  return best;
}

KernelChoice choose(const LinearShape& p) {
  KernelChoice choice{.kind = p.kind, .tokens = tile_tokens(p.M, takes_integers(p.kind))};
  if (takes_integers(p.kind) || choice.tokens > kMostFewTokens) return choice;
  switch (p.kind) {
    case FragmentKind::kInt4:
      choice.scale_tiles = scale_tiles<Int4Weights>(p.group);
      break;
    case FragmentKind::kInt8:
      choice.scale_tiles = scale_tiles<Int8Weights>(p.group);
      break;
    default:
      choice.scale_tiles = scale_tiles<TableWeights>(p.group);
  }
  return choice;
}

// Equal slabs, within the limit unless one tile of rows is beyond it.
int64_t slab_rows(int64_t N, int64_t K) {
  const int64_t most =
      std::max(kPaddedRows, kMostSlabBytes / (2 * slab_stride(K)) / kPaddedRows * kPaddedRows);
  return divide_up(divide_up(N, divide_up(N, most)), kPaddedRows) * kPaddedRows;
}

std::string describe_slabs(const LinearShape& p, const LinearPlan& plan) {
  char text[128];
  std::snprintf(text, sizeof text, "%lld slabs of %lld rows in 16 bits, %.1f MB, dense products",
                static_cast<long long>(divide_up(p.N, plan.slab_rows)),
                static_cast<long long>(plan.slab_rows),
                static_cast<double>(2 * plan.slab_rows * slab_stride(p.K)) / 1e6);
  return text;
}

const char* name_of(FragmentKind kind) {
  switch (kind) {
    case FragmentKind::kInt4:
      return "int4";
    case FragmentKind::kInt8:
      return "int8";
    case FragmentKind::kTable:
      return "table4";
    case FragmentKind::kInteger8:
      return "w8a8";
    default:
      return "w4a8";
  }
}

}  // namespace

LinearPlan plan_linear(const LinearShape& p, const DeviceLimits& device) {
  const auto where = [&] {
    return std::to_string(p.M) + " x " + std::to_string(p.N) + " x " + std::to_string(p.K);
  };
  if (p.M < 1 || p.N < 1 || p.K < 1) throw Error("", "a product of " + where(), "");
  LinearPlan plan;
  if (p.M >= kFewestDenseTokens && !takes_integers(p.kind)) {
    plan.slab_rows = slab_rows(p.N, p.K);
    plan.choice.kind = p.kind;
    return plan;
  }
  plan.choice = choose(p);
  int blocks = 0;  // of a multiprocessor
  with_kernel<F16>(plan.choice, [&]<typename Kernel>(std::type_identity<Kernel>) {
    plan.threads = Kernel::kThreads;
    blocks = Kernel::kBlocks;
    plan.shared_bytes = Kernel::kSharedBytes;
    plan.work.tiles = divide_up(p.N, Kernel::kRows) * divide_up(p.M, Kernel::kTokens);
    plan.work.units_per_tile =
        divide_up(p.K, kPaddedColumns) * kPaddedColumns / Kernel::kUnitColumns;
    plan.workspace_bytes = Kernel::kTileElements * int64_t{4};
  });
  if (plan.work.units() > std::numeric_limits<int32_t>::max()) {
    throw Error("", "a product of " + where() + " has too many parts for one launch",
                "multiply fewer tokens at a time");
  }
  if (plan.shared_bytes > device.block_shared_bytes) {
    throw Error("",
                "a block needs " + std::to_string(plan.shared_bytes) +
                    " bytes of shared memory, the device has " +
                    std::to_string(device.block_shared_bytes),
                "");
  }
  const int fitting = device.shared_bytes / (plan.shared_bytes + kReservedSharedBytes);
  const int64_t at_once = int64_t{device.multiprocessors} * std::clamp(fitting, 1, blocks);
  plan.work.blocks = std::min(plan.work.units(), at_once);
  plan.workspace_bytes *= 2 * plan.work.blocks;
  return plan;
}

std::string to_string(const LinearShape& p, const LinearPlan& plan) {
  char problem[96];
  std::snprintf(problem, sizeof problem, "%s %lldx%lldx%lld g%lld: ", name_of(p.kind),
                static_cast<long long>(p.M), static_cast<long long>(p.N),
                static_cast<long long>(p.K), static_cast<long long>(p.group));
  if (plan.slab_rows > 0) return problem + describe_slabs(p, plan);
  char text[192];
  std::snprintf(text, sizeof text,
                "tiles of %d tokens, %lld blocks of %d threads, %.1f of %lld units each, %.1f KB "
                "shared, %.1f KB of partial sums",
                plan.choice.tokens, static_cast<long long>(plan.work.blocks), plan.threads,
                static_cast<double>(plan.work.units()) / static_cast<double>(plan.work.blocks),
                static_cast<long long>(plan.work.units()), plan.shared_bytes / 1024.,
                static_cast<double>(plan.workspace_bytes) / 1024.);
  return std::string(problem) + text;
}

}  // namespace nibble
