// How far the codes of a layer could be compressed without loss: their entropy, and their size in
// an optimal prefix code. Measurements for reports; no format stores codes so.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "src/quantized/quantized_linear.h"

namespace nibble {

struct CodeSizes {
  double entropy_bits = 0.;        // per code: - sum p log2 p over the whole layer
  int64_t huffman_bits = 0;        // of all codes in the optimal prefix code of their histogram
  int64_t huffman_table_bits = 0;  // a canonical code's lengths: 8 bits for each of 2^bits codes
};

CodeSizes code_sizes(const QuantizedLinear& q);
// Of codes of so many bits that occur so often.
CodeSizes code_sizes(std::span<const int64_t> counts, int bits);

// How often each code occurs.
std::array<int64_t, 256> code_counts(const QuantizedLinear& q);
// Of the distribution counts / sum(counts); 0 for none.
double entropy_bits(std::span<const int64_t> counts);
// Word lengths of a prefix code with the least sum of count * length (Huffman 1952); 0 for what
// does not occur, and for the only one that does: how often is known without any bit.
std::vector<int> huffman_lengths(std::span<const int64_t> counts);

}  // namespace nibble
