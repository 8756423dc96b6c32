// With AVX-512, sixteen rows at a time.
#include <cstring>

#include "quantizers/solvers/gptq_lanes.h"

#define NIBBLE_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))

namespace nibble {
namespace {

#include "quantizers/solvers/gptq_lanes.inc"

}  // namespace

const LanePath kAvx512Lanes = {"avx512", round_columns, search_group};

}  // namespace nibble
