// Groups of layers for the tests of transforms.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "calibration/stats.h"
#include "quantizers/transforms/scale_group.h"
#include "src/quantized/scheme.h"
#include "src/tensor/matrix.h"

namespace nibble {

// tests/golden/transforms.json.
const nlohmann::json& golden_transforms();

// The inputs and layers that tools/golden/transforms.py describes; schemes are not set.
const ScaleGroup& golden_group();

// Scheme of a row of the golden file with this group size.
Scheme golden_scheme(const nlohmann::json& row, int64_t group_size);

// T random inputs of K channels, their sizes log-normal, and layers of these many rows.
ScaleGroup random_group(const std::vector<int64_t>& rows, int64_t K, const Scheme& scheme,
                        uint32_t seed);

InputStatistics statistics_of(const Matrix& X);
Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed);

// tr((W - V) H (W - V)') in double.
double exact_loss(const Matrix& W, const Matrix& V, const Matrix& H);

}  // namespace nibble
