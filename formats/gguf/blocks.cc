#include "formats/gguf/blocks.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "formats/gguf/types.h"
#include "formats/packing/gguf.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr int64_t kParallelBlocks = 1024;  // fewer are done before a second thread is awake
constexpr uint8_t kSignOfCode = 0x80;      // of Q8_0's two's complement
constexpr std::byte kSignOfHalf{0x80};     // in the second byte of an F16

template <typename Block>
inline constexpr int kGroups = Block::kWeights / Block::kGroup;

// Parameters of one kind as both sides keep them: `values` of the groups, and of whole blocks where
// the groups' are quantized in turn.
struct ParameterBytes {
  std::byte* values = nullptr;
  std::byte* second = nullptr;
};

ParameterBytes bytes_of(ParameterValues& values) {
  return {values.values.empty() ? nullptr : values.values.mutable_bytes().data(),
          values.second.empty() ? nullptr : values.second.mutable_bytes().data()};
}

// Room for what a layer of the scheme stores.
ParameterValues allocate(const std::optional<Parameter>& parameter, int64_t N, int64_t G) {
  ParameterValues values;
  if (!parameter) return values;
  values.values = Tensor::allocate(parameter->type, {N, G});
  if (parameter->second) {
    values.second = Tensor::allocate(parameter->second->type, {N * G / parameter->second->block});
  }
  return values;
}

// Copies an F16, the other way round where the scheme adds what the type subtracts.
void copy_half(const std::byte* from, std::byte* to, bool negate) {
  to[0] = from[0];
  to[1] = negate ? from[1] ^ kSignOfHalf : from[1];
}

template <typename Block>
void read_parameters(const uint8_t* block, int64_t b, const ParameterBytes& scale,
                     const ParameterBytes& minimum) {
  const auto* bytes = reinterpret_cast<const std::byte*>(block);
  if constexpr (kGroups<Block> == 1) {
    if constexpr (std::is_same_v<Block, GgufMxfp4>) {
      scale.values[b] = bytes[Block::kScale];
    } else {
      copy_half(bytes + Block::kScale, scale.values + 2 * b, false);
    }
    if constexpr (Block::kMinimum != kNone) {
      copy_half(bytes + Block::kMinimum, minimum.values + 2 * b, false);
    }
  } else {
    copy_half(bytes + Block::kScale, scale.second + 2 * b, false);
    for (int j = 0; j < kGroups<Block>; ++j) {
      const int stored = load_slices(block, Block::scale(j)) - Block::kScaleBias;
      scale.values[b * kGroups<Block> + j] = static_cast<std::byte>(stored);
    }
    if constexpr (Block::kMinimum != kNone) {
      copy_half(bytes + Block::kMinimum, minimum.second + 2 * b, true);
      for (int j = 0; j < kGroups<Block>; ++j) {
        minimum.values[b * kGroups<Block> + j] = std::byte{load_slices(block, Block::minimum(j))};
      }
    }
  }
}

template <typename Block>
void write_parameters(const std::byte* scale, const std::byte* scale_second,
                      const std::byte* minimum, const std::byte* minimum_second, int64_t b,
                      uint8_t* block) {
  auto* bytes = reinterpret_cast<std::byte*>(block);
  if constexpr (kGroups<Block> == 1) {
    if constexpr (std::is_same_v<Block, GgufMxfp4>) {
      bytes[Block::kScale] = scale[b];
    } else {
      copy_half(scale + 2 * b, bytes + Block::kScale, false);
    }
    if constexpr (Block::kMinimum != kNone) {
      copy_half(minimum + 2 * b, bytes + Block::kMinimum, false);
    }
  } else {
    copy_half(scale_second + 2 * b, bytes + Block::kScale, false);
    for (int j = 0; j < kGroups<Block>; ++j) {
      const int stored = std::to_integer<int>(scale[b * kGroups<Block> + j]) + Block::kScaleBias;
      store_slices(block, Block::scale(j), static_cast<uint32_t>(stored) & 0xff);
    }
    if constexpr (Block::kMinimum != kNone) {
      copy_half(minimum_second + 2 * b, bytes + Block::kMinimum, true);
      for (int j = 0; j < kGroups<Block>; ++j) {
        store_slices(block, Block::minimum(j),
                     std::to_integer<uint32_t>(minimum[b * kGroups<Block> + j]));
      }
    }
  }
}

template <typename Block>
void decode(const uint8_t* bytes, QuantizedLinear& q) {
  const int64_t blocks = q.N * q.K / Block::kWeights;
  uint8_t* codes = q.codes.mutable_values<uint8_t>().data();
  const ParameterBytes scale = bytes_of(q.scale);
  const ParameterBytes minimum = bytes_of(q.minimum);
#pragma omp parallel for schedule(static) if (blocks > kParallelBlocks)
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = bytes + b * Block::kBytes;
    uint8_t* block_codes = codes + b * Block::kWeights;
    unpack_gguf_codes<Block>(block, block_codes);
    if constexpr (std::is_same_v<Block, GgufQ80>) {
      for (int i = 0; i < Block::kWeights; ++i) block_codes[i] ^= kSignOfCode;
    }
    read_parameters<Block>(block, b, scale, minimum);
  }
}

template <typename Block>
void encode(const QuantizedLinear& q, uint8_t* bytes) {
  const int64_t blocks = q.N * q.K / Block::kWeights;
  const uint8_t* codes = q.codes.values<uint8_t>().data();
#pragma omp parallel for schedule(static) if (blocks > kParallelBlocks)
  for (int64_t b = 0; b < blocks; ++b) {
    uint8_t* block = bytes + b * Block::kBytes;
    const uint8_t* block_codes = codes + b * Block::kWeights;
    pack_gguf_codes<Block>(block_codes, block);
    if constexpr (std::is_same_v<Block, GgufQ80>) {
      for (int i = 0; i < Block::kWeights; ++i) block[2 + i] ^= kSignOfCode;
    }
    write_parameters<Block>(q.scale.values.bytes().data(), q.scale.second.bytes().data(),
                            q.minimum.values.bytes().data(), q.minimum.second.bytes().data(), b,
                            block);
  }
}

struct Codec {
  std::string_view name;
  void (*decode)(const uint8_t* bytes, QuantizedLinear& q);
  void (*encode)(const QuantizedLinear& q, uint8_t* bytes);
};

template <typename Block>
constexpr Codec codec(std::string_view name) {
  return {name, decode<Block>, encode<Block>};
}

constexpr std::array kCodecs = {
    codec<GgufQ40>("q4_0"),    codec<GgufQ41>("q4_1"),   codec<GgufQ50>("q5_0"),
    codec<GgufQ51>("q5_1"),    codec<GgufQ80>("q8_0"),   codec<GgufQ2K>("q2_k"),
    codec<GgufQ3K>("q3_k"),    codec<GgufQ4K>("q4_k"),   codec<GgufQ5K>("q5_k"),
    codec<GgufQ6K>("q6_k"),    codec<GgufQ40>("iq4_nl"), codec<GgufIq4Xs>("iq4_xs"),
    codec<GgufMxfp4>("mxfp4"),
};

const Codec& codec_of(const GgufType& type, const std::string& where) {
  const auto* found = std::ranges::find(kCodecs, type.name, &Codec::name);
  if (found != kCodecs.end()) return *found;
  throw Error(where, "type " + std::string(type.name) + " is not decoded",
              "q2_k to q8_0, iq4_nl, iq4_xs and mxfp4 are");
}

void check_columns(const GgufType& type, int64_t K, const std::string& where) {
  if (K % type.block == 0) return;
  throw Error(where, "rows of " + std::to_string(K) + " weights, " + std::string(type.name) +
                         " has blocks of " + std::to_string(type.block));
}

int64_t bytes_of_row(const GgufType& type, int64_t K) { return K / type.block * type.block_bytes; }

}  // namespace

bool has_blocks(const GgufType& type) {
  return std::ranges::find(kCodecs, type.name, &Codec::name) != kCodecs.end();
}

const GgufType* block_type(const Scheme& scheme, int64_t K) {
  const GgmlScheme* row = ggml_scheme(scheme);
  return row == nullptr || K % row->block != 0 ? nullptr : gguf_type(row->name);
}

QuantizedLinear decode_blocks(const GgufType& type, std::span<const std::byte> bytes, int64_t N,
                              int64_t K, const std::string& where) {
  const Codec& codec = codec_of(type, where);
  check_columns(type, K, where);
  if (std::ssize(bytes) != N * bytes_of_row(type, K)) {
    throw Error(where, std::to_string(bytes.size()) + " bytes, expected " +
                           std::to_string(N * bytes_of_row(type, K)) + " for " + std::to_string(N) +
                           " x " + std::to_string(K) + " weights of " + std::string(type.name));
  }
  QuantizedLinear q;
  q.scheme = ggml_scheme(type.name)->scheme;
  q.N = N;
  q.K = K;
  q.codes = Tensor::uninitialized(Dtype::kU8, {N, K});
  const int64_t groups = group_count(q.scheme.blocking, K);
  q.scale = allocate(q.scheme.scale, N, groups);
  q.minimum = allocate(q.scheme.minimum, N, groups);
  codec.decode(reinterpret_cast<const uint8_t*>(bytes.data()), q);
  check(q, where);
  return q;
}

Tensor encode_blocks(const GgufType& type, const QuantizedLinear& q, const std::string& where) {
  const Codec& codec = codec_of(type, where);
  check_columns(type, q.K, where);
  if (q.scheme != ggml_scheme(type.name)->scheme || !q.group_of_column.empty()) {
    throw Error(where, describe(q.scheme) + (q.group_of_column.empty() ? "" : ", column groups") +
                           " is not " + std::string(type.name));
  }
  Tensor result = Tensor::allocate(Dtype::kU8, {q.N, bytes_of_row(type, q.K)});
  codec.encode(q, result.mutable_values<uint8_t>().data());
  return result;
}

}  // namespace nibble
