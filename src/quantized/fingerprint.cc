#include <xxhash.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// XXH3-128 of a sequence of values; arrays go in with their length, so that neighbours cannot
// exchange bytes unnoticed.
class Hash {
 public:
  Hash() : state_(XXH3_createState(), XXH3_freeState) {
    if (state_ == nullptr || XXH3_128bits_reset(state_.get()) != XXH_OK) throw std::bad_alloc();
  }

  void bytes(std::span<const std::byte> data) {
    number(data.size());
    XXH3_128bits_update(state_.get(), data.data(), data.size());
  }
  template <typename T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    XXH3_128bits_update(state_.get(), &value, sizeof value);
  }
  template <typename T>
  void array(const std::vector<T>& values) {
    bytes(std::as_bytes(std::span(values)));
  }
  // Not the shape: the scheme gives it, and [N, 1] is the same array as [N].
  void tensor(const Tensor& tensor) {
    number(tensor.dtype());
    bytes(tensor.bytes());
  }
  std::array<uint64_t, 2> result() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return {hash.low64, hash.high64};
  }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

void add(Hash& hash, const Blocking& blocking) {
  hash.number(blocking.rows);
  hash.number(blocking.columns);
  hash.number(blocking.flattened);
}

void add(Hash& hash, const Grid& grid) {
  hash.number(grid.kind);
  hash.number(grid.bits);
  hash.number(grid.lowest);
  hash.bytes(std::as_bytes(std::span(grid.name)));
  std::vector<float> table = grid.table;  // equal tables may differ in the sign of zero and of NaN
  for (float& level : table) level = std::isnan(level) ? kNan : level + 0.F;
  hash.array(table);
}

void add(Hash& hash, const std::optional<Parameter>& parameter, const ParameterValues& values) {
  hash.number(parameter.has_value());
  if (!parameter) return;
  hash.number(parameter->type);
  hash.number(parameter->bits);
  hash.array(parameter->table);
  hash.tensor(values.values);
  hash.number(parameter->second.has_value());
  if (!parameter->second) return;
  hash.number(parameter->second->type);
  hash.number(parameter->second->block);
  hash.number(parameter->second->divides);
  hash.number(parameter->second->has_offset);
  hash.tensor(values.second);
  hash.number(values.offset);
}

void add(Hash& hash, const std::optional<ActivationScheme>& activations) {
  hash.number(activations.has_value());
  if (!activations) return;
  hash.number(activations->bits);
  hash.number(activations->symmetric);
  hash.number(activations->dynamic);
  hash.number(activations->per_token);
  hash.number(activations->is_float);
  hash.number(activations->columns);
  hash.number(activations->divides);
}

}  // namespace

std::array<uint64_t, 2> fingerprint(const QuantizedLinear& q) {
  Hash hash;
  hash.number(q.N);
  hash.number(q.K);
  add(hash, q.scheme.grid);
  add(hash, q.scheme.blocking);
  add(hash, q.scheme.codebook_blocking);
  add(hash, q.scheme.activations);
  hash.tensor(q.codes);
  add(hash, q.scheme.scale, q.scale);
  add(hash, q.scheme.zero, q.zero);
  add(hash, q.scheme.minimum, q.minimum);
  hash.tensor(q.codebooks);
  hash.array(q.group_of_column);
  hash.tensor(q.input_scale);
  hash.tensor(q.input_zero);
  return hash.result();
}

}  // namespace nibble
