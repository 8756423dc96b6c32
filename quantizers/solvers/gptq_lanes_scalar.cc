// The compiler's baseline instruction set.
#include <cstring>

#include "quantizers/solvers/gptq_lanes.h"

#define NIBBLE_TARGET

namespace nibble {
namespace {

#include "quantizers/solvers/gptq_lanes.inc"

}  // namespace

const LanePath kScalarLanes = {"scalar", round_columns, search_group};

}  // namespace nibble
