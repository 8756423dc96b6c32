#include "src/tensor/convert.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>

#include "src/tensor/convert_paths.h"
#include "src/tensor/cpu_features.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

// Elements converted and counted at a time: 16 KiB of floats stay in the first-level cache between
// the two passes.
constexpr int64_t kBlock = 4096;
// Below this a second thread costs more than it saves (about 50 us of work).
constexpr int64_t kParallelElements = 1 << 18;

template <typename T>
const T* as(const std::byte* bytes) {
  return reinterpret_cast<const T*>(bytes);
}
template <typename T>
T* as(std::byte* bytes) {
  return reinterpret_cast<T*>(bytes);
}

[[noreturn]] void refuse(Dtype dtype) {
  throw Error("", std::string(dtype_name(dtype)) + " is not a float type",
              "expected F64, F32, F16, BF16 or an 8-bit float");
}

void check_size(size_t expected, size_t got) {
  if (expected != got) {
    throw Error("", "conversion of " + std::to_string(expected) + " elements into room for " +
                        std::to_string(got));
  }
}

// in: n elements of `dtype`, a float type.
void block_to_float(Dtype dtype, const std::byte* in, float* out, int64_t n) {
  const ConvertPath& path = *convert_paths().back();
  switch (dtype) {
    case Dtype::kF64:
      std::transform(as<double>(in), as<double>(in) + n, out,
                     [](double x) { return static_cast<float>(x); });
      return;
    case Dtype::kF32:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case Dtype::kF16:
      return path.f16_to_float(as<uint16_t>(in), out, n);
    case Dtype::kBF16:
      return path.bf16_to_float(as<uint16_t>(in), out, n);
    case Dtype::kF8E8M0:
      return e8m0_to_float(as<uint8_t>(in), out, n);
    default:
      return path.f8_to_float(as<uint8_t>(in), out, n, f8_rule(dtype));
  }
}

// out: n elements of `dtype`, a float type.
void block_from_float(const float* in, Dtype dtype, std::byte* out, int64_t n) {
  const ConvertPath& path = *convert_paths().back();
  switch (dtype) {
    case Dtype::kF64:
      std::copy(in, in + n, as<double>(out));
      return;
    case Dtype::kF32:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case Dtype::kF16:
      return path.float_to_f16(in, as<uint16_t>(out), n);
    case Dtype::kBF16:
      return path.float_to_bf16(in, as<uint16_t>(out), n);
    case Dtype::kF8E8M0:
      return path.float_to_e8m0(in, as<uint8_t>(out), n);
    default:
      return path.float_to_f8(in, as<uint8_t>(out), n, f8_rule(dtype));
  }
}

int mantissa_bits(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
      return 10;
    case Dtype::kBF16:
      return 7;
    case Dtype::kF8E8M0:
      return 0;
    default:
      return f8_rule(dtype).mantissa_bits;
  }
}

// For the types narrower than float. Half the smallest value is a tie and goes to zero, which is
// even. Half a step beyond the largest is a tie too: it stays where the largest is even (E4M3), and
// goes beyond where it is odd.
LossBounds loss_bounds(Dtype dtype) {
  LossBounds bounds{};
  if (dtype != Dtype::kF8E8M0) {
    bounds.flush = std::bit_cast<uint32_t>(smallest_positive(dtype) / 2);
  }
  const auto largest = std::bit_cast<uint32_t>(largest_finite(dtype));
  bounds.overflow = largest + (uint32_t{1} << (22 - mantissa_bits(dtype)));
  if (dtype == Dtype::kF8E4M3) bounds.overflow += 1;
  return bounds;
}

// E8M0 holds scales: a negative one saturates at the smallest value.
LossCount count_block(const float* in, int64_t n, Dtype dtype, LossBounds bounds) {
  LossCount count = convert_paths().back()->count_loss(in, n, bounds);
  if (dtype == Dtype::kF8E8M0) {
    const float largest = largest_finite(Dtype::kF32);
    count.overflowed += std::count_if(in, in + n, [&](float x) { return x < 0 && x >= -largest; });
  }
  return count;
}

bool overflows(float value, Dtype dtype, LossBounds bounds) {
  return count_block(&value, 1, dtype, bounds).overflowed > 0;
}

bool loses_nothing(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF64; }

int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

}  // namespace

std::span<const ConvertPath* const> convert_paths() {
  static const std::array<const ConvertPath*, 3> kPaths = {&kScalarConvert, &kAvx2Convert,
                                                           &kAvx512Convert};
  const CpuFeatures& cpu = cpu_features();
  return std::span(kPaths).first(cpu.avx512 ? 3 : cpu.avx2 ? 2 : 1);
}

void to_float(const TensorView& source, std::span<float> out) {
  if (!is_float(source.dtype)) refuse(source.dtype);
  const int64_t n = source.elements();
  check_size(static_cast<size_t>(n), out.size());
  const int64_t element_bytes = dtype_bits(source.dtype) / 8;
#pragma omp parallel for schedule(static) if (n >= kParallelElements)
  for (int64_t block = 0; block < blocks_of(n); ++block) {
    const int64_t begin = block * kBlock;
    block_to_float(source.dtype, source.bytes.data() + begin * element_bytes, out.data() + begin,
                   std::min(kBlock, n - begin));
  }
}

RoundingLoss from_float(std::span<const float> values, Dtype dtype, std::span<std::byte> out) {
  if (!is_float(dtype)) refuse(dtype);
  const auto n = static_cast<int64_t>(values.size());
  const int64_t element_bytes = dtype_bits(dtype) / 8;
  check_size(values.size(), out.size() / static_cast<size_t>(element_bytes));
  const LossBounds bounds = loses_nothing(dtype) ? LossBounds{} : loss_bounds(dtype);
  int64_t flushed = 0;
  int64_t overflowed = 0;
  int64_t first_block = INT64_MAX;  // with an overflow
#pragma omp parallel for schedule(static) if (n >= kParallelElements) \
    reduction(+ : flushed, overflowed) reduction(min : first_block)
  for (int64_t block = 0; block < blocks_of(n); ++block) {
    const int64_t begin = block * kBlock;
    const int64_t count = std::min(kBlock, n - begin);
    block_from_float(values.data() + begin, dtype, out.data() + begin * element_bytes, count);
    if (loses_nothing(dtype)) continue;
    const LossCount loss = count_block(values.data() + begin, count, dtype, bounds);
    flushed += loss.flushed;
    overflowed += loss.overflowed;
    if (loss.overflowed > 0) first_block = std::min(first_block, block);
  }
  RoundingLoss loss{.overflowed = overflowed, .flushed = flushed};
  if (overflowed > 0) {
    loss.first_overflow = first_block * kBlock;
    while (!overflows(values[static_cast<size_t>(loss.first_overflow)], dtype, bounds)) {
      ++loss.first_overflow;
    }
  }
  return loss;
}

float round_to(float value, Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
    case Dtype::kF32:
      return value;
    case Dtype::kF16:
      return f16_to_float(float_to_f16(value));
    case Dtype::kBF16:
      return bf16_to_float(float_to_bf16(value));
    default:
      if (!is_float(dtype)) refuse(dtype);
      return f8_to_float(float_to_f8(value, dtype), dtype);
  }
}

float smallest_positive(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
    case Dtype::kF32:
      return std::numeric_limits<float>::denorm_min();
    case Dtype::kF16:
      return f16_to_float(1);
    case Dtype::kBF16:
      return bf16_to_float(1);
    case Dtype::kF8E8M0:
      return f8_to_float(0, dtype);
    default:
      if (!is_float(dtype)) refuse(dtype);
      return f8_to_float(1, dtype);
  }
}

float largest_finite(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF64:
    case Dtype::kF32:
      return std::numeric_limits<float>::max();
    case Dtype::kF16:
      return f16_to_float(0x7bff);
    case Dtype::kBF16:
      return bf16_to_float(0x7f7f);
    case Dtype::kF8E8M0:
      return f8_to_float(254, dtype);
    default:
      if (!is_float(dtype)) refuse(dtype);
      return f8_to_float(f8_rule(dtype).largest, dtype);
  }
}

}  // namespace nibble
