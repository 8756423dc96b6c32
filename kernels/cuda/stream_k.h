// Stream-K: the work of a matrix product is a list of units, tile after tile and along K within a
// tile; each block takes one run of it, all runs equally long (M. Osama et al., Stream-K, 2023,
// arXiv 2301.03598). A tile that several blocks share is summed by the last of them to arrive, in
// the order of the blocks, whoever is last: the same bits every time, and nobody waits.
#pragma once

#include <cstdint>

#include "formats/packing/packing.h"
#include "kernels/cuda/device.h"

namespace nibble {

struct StreamK {
  int64_t tiles = 0;  // with units_per_tile: fewer than 2^31 units
  int64_t units_per_tile = 0;
  int64_t blocks = 0;  // at most one for a unit

  bool operator==(const StreamK&) const = default;

  NIBBLE_HD constexpr int64_t units() const { return tiles * units_per_tile; }
  // Block b takes units [begin(b), begin(b + 1)).
  NIBBLE_HD constexpr int64_t begin(int64_t block) const { return block * units() / blocks; }
  NIBBLE_HD constexpr int64_t block_of(int64_t unit) const {
    return ((unit + 1) * blocks - 1) / units();
  }
  // Blocks [first_block(t), last_block(t)] share tile t.
  NIBBLE_HD constexpr int64_t first_block(int64_t tile) const {
    return block_of(tile * units_per_tile);
  }
  NIBBLE_HD constexpr int64_t last_block(int64_t tile) const {
    return block_of((tile + 1) * units_per_tile - 1);
  }
  // Which of the 2 * blocks slots for unfinished tiles holds the share of block b >= first of the
  // tile whose first_block is `first`: a block leaves at most two tiles unfinished, its first and
  // its last, and only the first block of a tile can have begun before it.
  NIBBLE_HD constexpr int64_t slot(int64_t block, int64_t tile, int64_t first) const {
    return 2 * block + (block == first && begin(block) < tile * units_per_tile ? 1 : 0);
  }
};

// visit(tile, first, last) for every tile of which the block has units [first, last).
template <typename Gpu, typename Visit>
NIBBLE_DEVICE void for_tiles_of_block(const Gpu& gpu, const StreamK& work, const Visit& visit) {
  const int per_tile = static_cast<int>(work.units_per_tile);
  const int end = static_cast<int>(work.begin(gpu.block() + 1));
  for (int unit = static_cast<int>(work.begin(gpu.block())); unit < end;) {
    const int tile = unit / per_tile;
    const int first = unit - tile * per_tile;
    const int last = end - tile * per_tile < per_tile ? end - tile * per_tile : per_tile;
    visit(tile, first, last);
    unit = tile * per_tile + last;
  }
}

// Called by the whole block after it stored its share of a tile. True in the block that arrives
// last: it may read the shares of the others, by load_coherent. counter: of the tile, zero before
// and after the launch; flag: in shared memory.
template <typename Gpu>
NIBBLE_DEVICE bool arrives_last(const Gpu& gpu, uint32_t* counter, int64_t shares, uint32_t* flag) {
  gpu.fence();
  gpu.sync();
  if (gpu.thread() == 0) {
    const bool last = gpu.atomic_add(counter, 1) + 1 == static_cast<uint32_t>(shares);
    if (last) gpu.store(counter, uint32_t{0});
    gpu.store_shared(flag, uint32_t{last ? 1U : 0U});
    gpu.fence();
  }
  gpu.sync();
  return gpu.load_shared(flag) != 0;
}

}  // namespace nibble
