// What the kernels in this folder are written in: plain C++ over a machine `Gpu`, passed as an
// argument, whose functions are single instructions. There are two machines: Ptx (ptx.h), which is
// the instructions, and the Lane of the block executor (tests/kernels/cuda/executor.h), which
// computes the same on the CPU and watches every access. A kernel touches memory by them alone:
//
//   thread, block, blocks        indexes and the number of blocks; blocks are one-dimensional
//   shared                       the block's dynamic shared memory, 16-byte aligned
//   load, load_once              global memory that the launch does not write; once: not kept in L1
//   load_coherent, store         global memory that it writes
//   load_shared, store_shared
//   copy_async                   16 bytes from global to shared memory, of which the first `bytes`
//                                are read and the others become zero; then commit_copies, and
//                                wait_copies(Constant<n>) until at most n commits are under way
//   sync, sync_warp, fence, atomic_add
//   shuffle_xor                  the value of lane ^ mask
//   mma                          d += a b, a tile of 16 x 16 (8-bit integers: 16 x 32) times one of
//                                8 columns, spread over the warp (below)
//   lop3, permute                bits and bytes (PTX lop3, prmt)
//   fma, fma2, to_float, round, round2     float, pairs of 16-bit floats; one rounding each
//   sqrt, exp2                   float; rounded, within 2 ulp
//
// Fragments of mma (PTX ISA, "matrix fragments for mma.m16n8k16" and ".m16n8k32"). With lane =
// 4 g + t, and V = 2 values (16 bits) or 4 (8 bits) in a register:
//   a[0..3]  rows g, g + 8, g, g + 8; columns V t + i, twice, then 4 V + V t + i, twice
//   b[0..1]  column g; rows V t + i, then 4 V + V t + i
//   d[0..3]  rows g, g, g + 8, g + 8; columns 2 t, 2 t + 1, 2 t, 2 t + 1
// Any order of the columns of a gives the same sums if the rows of b follow it: the packings
// (formats/packing/fragment.h) let a lane own neighbouring columns, so that both operands come in
// 16-byte loads and nothing is transposed on the way.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define NIBBLE_DEVICE __device__ __forceinline__
#define NIBBLE_UNROLL _Pragma("unroll")  // what it indexes stays in registers
#else
#define NIBBLE_DEVICE inline
#define NIBBLE_UNROLL
#endif

namespace nibble {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

struct alignas(16) Words4 {
  uint32_t word[4];
};

struct alignas(16) Floats4 {
  float value[4];
};

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

inline constexpr int kWarpLanes = 32;
// lop3's table of (a & b) | c.
inline constexpr int kAndOr = 0xea;

}  // namespace nibble
