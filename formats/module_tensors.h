// What the formats share: tensors of one module read with every check, codes packed and unpacked on
// all threads, arrays transposed. Which tensors there are, and what they mean, is each format's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/packing/matrix.h"
#include "formats/packing/packing.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {

// "model.safetensors: tensor 'x'", for the `where` of an Error.
std::string where_of(const Checkpoint& checkpoint, const std::string& tensor);
// "<folder>: quantization_config".
std::string where_of_config(const Checkpoint& checkpoint);

// Throws Error naming the tensor unless it has one of the dtypes and this shape.
Tensor checked_tensor(const Checkpoint& checkpoint, const std::string& name,
                      std::initializer_list<Dtype> dtypes, const Shape& shape);

// The same for a single value, stored as [1] or as a scalar []; returned as [1].
Tensor checked_scalar(const Checkpoint& checkpoint, const std::string& name,
                      std::initializer_list<Dtype> dtypes);

// Which of the module's tensors ("<module>.<suffix>") the checkpoint has; empty without any. Throws
// Error when a required one is missing beside others, or a dense weight is there as well.
std::vector<std::string> present_tensors(const Checkpoint& checkpoint, const std::string& module,
                                         std::initializer_list<std::string_view> required,
                                         std::initializer_list<std::string_view> optional);

// "<module>.weight" if it has one of the dtypes, and the others of the module's tensors that there
// are; else nothing.
std::vector<std::string> tensors_with_weight(const Checkpoint& checkpoint,
                                             const std::string& module,
                                             std::initializer_list<Dtype> dtypes,
                                             std::initializer_list<std::string_view> others);

// Names of the modules that are not to be quantized, and of a tied output head: no module of the
// checkpoint, but one of the loader's model.
std::vector<std::string> left_out(std::span<const FormatModule> modules);

// [rows, columns] -> [columns, rows], any element of 1, 2, 4 or 8 bytes.
Tensor transposed(const Tensor& tensor);

// The same bytes as another shape of as many elements.
Tensor reshaped(const Tensor& tensor, Shape shape);
// The same bytes as elements of another type of the same width: codes and FP8, for example.
Tensor reinterpreted(const Tensor& tensor, Dtype dtype, Shape shape);

// Rows of a matrix [rows, columns], cut or filled up with zeros to `columns`.
Tensor with_columns(const Tensor& tensor, int64_t columns);

// The scheme of a module that is to be quantized; asking for another's is an Error.
const Scheme& scheme_of(const FormatModule& module);
// The type of its scales, likewise.
Dtype scale_type_of(const FormatModule& module);

// Reason why a scheme is not integer codes in groups along rows as integer_scheme() makes them, K
// a multiple of the group; empty if it is. `per_tensor`: one scale altogether is allowed.
std::string integer_refusal(const FormatModule& module, bool per_tensor);
// Columns of a group: K for whole rows.
int64_t columns_of_group(const FormatModule& module);

// Throws Error unless q is what the module announced: sizes, scheme, column groups.
void check_announced(const FormatModule& module, const QuantizedLinear& q);

// group_of_column from a tensor I32 [K]; empty when it is k / columns, as it is without act-order.
std::vector<int32_t> column_groups(const Checkpoint& checkpoint, const std::string& name, int64_t K,
                                   int64_t columns, int64_t groups);
// The group of every column, written out: I32 [K].
Tensor column_group_tensor(const QuantizedLinear& q, int64_t columns);

// visit(std::integral_constant<int, bits>).
template <typename Visit>
auto with_bits(int bits, const Visit& visit) {
  switch (bits) {
    case 2:
      return visit(std::integral_constant<int, 2>{});
    case 3:
      return visit(std::integral_constant<int, 3>{});
    case 4:
      return visit(std::integral_constant<int, 4>{});
    case 8:
      return visit(std::integral_constant<int, 8>{});
    default:
      throw Error("", std::to_string(bits) + "-bit codes", "expected 2, 3, 4 or 8 bits");
  }
}

// work(first row, last row) on all threads, in ranges that share no word of layout P.
template <typename P, typename Work>
void for_row_ranges(int64_t N, int64_t K, const Work& work) {
  constexpr int64_t multiple = row_multiple<P>();
  if constexpr (multiple == 0) {
    work(int64_t{0}, N);
  } else {
    constexpr int64_t range = divide_up(64, multiple) * multiple;
#pragma omp parallel for schedule(static) if (N * K > 1 << 18)
    for (int64_t first = 0; first < N; first += range) work(first, std::min(first + range, N));
  }
}

// codes U8 [N, K] -> an array of the layout's words; dtype and shape are those of the file.
template <typename P>
Tensor packed(const Tensor& codes, int64_t N, int64_t K, Dtype dtype, Shape shape) {
  Tensor words = Tensor::allocate(dtype, std::move(shape));
  const uint8_t* from = codes.values<uint8_t>().data();
  auto* to = words.mutable_values<typename P::Word>().data();
  for_row_ranges<P>(
      N, K, [&](int64_t first, int64_t last) { pack_rows<P>(from, N, K, first, last, to); });
  return words;
}

template <typename P>
Tensor unpacked(const Tensor& words, int64_t N, int64_t K) {
  Tensor codes = Tensor::allocate(Dtype::kU8, {N, K});
  const auto* from = words.values<typename P::Word>().data();
  uint8_t* to = codes.mutable_values<uint8_t>().data();
  for_row_ranges<P>(
      N, K, [&](int64_t first, int64_t last) { unpack_rows<P>(from, N, K, first, last, to); });
  return codes;
}

}  // namespace nibble
