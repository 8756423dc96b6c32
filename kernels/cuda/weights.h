// How packed weights become operands of mma: one struct for each kind of code, with the layout it
// is packed in (formats/packing/fragment.h) and
//   kCentre     what is subtracted from an integer code; parameters of the layer are relative to it
//   kHasZeros   whether there may be zero points
//   fragment    the four registers of fragment j in step s out of a lane's vectors of a tile
// In 16-bit floats T the integers are exact; table levels are those of the table, rounded to T.
// Scales and zero points come after the sums of a group (few_tokens.h) or into the fragments
// (many_tokens.h).
#pragma once

#include <cstdint>

#include "formats/packing/fragment.h"
#include "kernels/cuda/device.h"

namespace nibble {

// Levels of a table as 16-bit floats, their low and their high bytes apart: entry i is byte i % 4
// of word i / 4.
struct LevelBytes {
  uint32_t low[4];
  uint32_t high[4];
};

// Both halves.
NIBBLE_HD constexpr uint32_t twice(uint32_t half) { return half << 16 | half; }

// Integers of 4 bits. A code OR-ed into the mantissa of 2^10 (fp16, bit 0 or 4) or 2^7 (bf16) is
// that number plus the code or 16 times it; one fused operation takes the rest away (Y. J. Kim et
// al., Who Says Elephants Can't Run, 2022, arXiv 2211.10017, section 3.3).
struct Int4Weights {
  using Layout = FragmentNibbles<true>;
  static constexpr int kCentre = 8;
  static constexpr bool kHasZeros = true;

  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, F16 type, const Words4* vectors, int step,
                                     int j, const LevelBytes& /*levels*/, uint32_t (&a)[4]) {
    constexpr uint32_t kMagic = twice(0x6400), kOne = twice(0x3c00), kSixteenth = twice(0x2c00);
    constexpr uint32_t kMinusLow = twice(0xe408);   // -(1024 + 8)
    constexpr uint32_t kMinusHigh = twice(0xd480);  // -(64 + 8)
    const uint32_t word = vectors[step].word[j];
    for (int r = 0; r < 4; r += 2) {
      const uint32_t codes = word >> 4 * r;
      const uint32_t low = gpu.lop3(Constant<kAndOr>{}, codes, 0x000f000fU, kMagic);
      const uint32_t high = gpu.lop3(Constant<kAndOr>{}, codes, 0x00f000f0U, kMagic);
      a[r] = gpu.fma2(type, low, kOne, kMinusLow);
      a[r + 1] = gpu.fma2(type, high, kSixteenth, kMinusHigh);
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, BF16 type, const Words4* vectors, int step,
                                     int j, const LevelBytes& /*levels*/, uint32_t (&a)[4]) {
    constexpr uint32_t kMagic = twice(0x4300), kOne = twice(0x3f80);
    constexpr uint32_t kMinus = twice(0xc308);  // -(128 + 8)
    const uint32_t word = vectors[step].word[j];
    for (int r = 0; r < 4; ++r) {
      const uint32_t codes = gpu.lop3(Constant<kAndOr>{}, word >> 4 * r, 0x000f000fU, kMagic);
      a[r] = gpu.fma2(type, codes, kOne, kMinus);
    }
  }
};

// Integers of 8 bits: bytes put into the mantissa of 2^10 or, since bf16 has too few bits, 2^23.
struct Int8Weights {
  using Layout = FragmentBytes;
  static constexpr int kCentre = 128;
  static constexpr bool kHasZeros = true;

  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, F16 type, const Words4* vectors, int step,
                                     int j, const LevelBytes& /*levels*/, uint32_t (&a)[4]) {
    constexpr uint32_t kMagic = 0x64646464, kOne = twice(0x3c00);
    constexpr uint32_t kMinus = twice(0xe480);  // -(1024 + 128)
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = vectors[step * 2 + j / 2].word[j % 2 * 2 + r / 2];
      const uint32_t codes = gpu.permute(word, kMagic, r % 2 == 0 ? 0x4140 : 0x4342);
      a[r] = gpu.fma2(type, codes, kOne, kMinus);
    }
  }

  template <typename Gpu>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, BF16 type, const Words4* vectors, int step,
                                     int j, const LevelBytes& /*levels*/, uint32_t (&a)[4]) {
    constexpr uint32_t kMagic = 0x4b000000;
    constexpr float kBias = 8388608.F + kCentre;
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = vectors[step * 2 + j / 2].word[j % 2 * 2 + r / 2];
      const auto value = [&](uint32_t byte) {
        return gpu.bits_to_float(gpu.permute(word, kMagic, 0x7540U | byte)) - kBias;
      };
      const uint32_t first = r % 2 * 2;
      a[r] = gpu.round2(type, value(first), value(first + 1));
    }
  }
};

// 16 levels: NF4, FP4. prmt is a table of 8 bytes that is asked four times at once; the codes' high
// bits choose between two of them.
struct TableWeights {
  using Layout = FragmentNibbles<false>;
  static constexpr int kCentre = 0;
  static constexpr bool kHasZeros = false;

  template <typename Gpu, typename T>
  NIBBLE_DEVICE static void fragment(const Gpu& gpu, T /*type*/, const Words4* vectors, int step,
                                     int j, const LevelBytes& levels, uint32_t (&a)[4]) {
    const uint32_t word = vectors[step].word[j];
    const uint32_t low_bits = word & 0x77777777U;
    const uint32_t choice = gpu.lop3(Constant<kAndOr>{}, word >> 1, 0x44444444U, 0x32103210U);
    for (int r = 0; r < 4; r += 2) {  // the low, then the high 16 bits of the word
      const auto look_up = [&](const uint32_t(&bytes)[4]) {
        const uint32_t first = gpu.permute(bytes[0], bytes[1], low_bits >> 8 * r);
        const uint32_t second = gpu.permute(bytes[2], bytes[3], low_bits >> 8 * r);
        return gpu.permute(first, second, choice >> 8 * r);
      };
      const uint32_t low = look_up(levels.low);
      const uint32_t high = look_up(levels.high);
      a[r] = gpu.permute(low, high, 0x5140);
      a[r + 1] = gpu.permute(low, high, 0x7362);
    }
  }
};

}  // namespace nibble
