// With AVX2, eight rows at a time.
#include <cstring>

#include "quantizers/solvers/gptq_lanes.h"

#define NIBBLE_TARGET __attribute__((target("avx2")))

namespace nibble {
namespace {

#include "quantizers/solvers/gptq_lanes.inc"

}  // namespace

const LanePath kAvx2Lanes = {"avx2", round_columns, search_group};

}  // namespace nibble
