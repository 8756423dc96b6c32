// Ranges of weights: those of every block cut off at the range that a method of
// calibration/ranges.h finds in them. Rounding to nearest, which spans what it is given, then spans
// that range. Histograms are coarse: 64 bins for blocks below 1024 weights, else 256.
#pragma once

#include <string>

#include "calibration/ranges.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// scheme: integers, not of flattened blocking. Each row of a block is a batch of kMovingAverage.
// Weights that are not finite come back as they are: their place is for the solver to name.
Matrix cut_to_ranges(ConstMatrixRef W, const Scheme& scheme, RangeMethod method, double percentile);

}  // namespace nibble
