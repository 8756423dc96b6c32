#include "src/model/layers.h"

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/dequant_matmul.h"
#include "kernels/int8_matmul.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/workspace.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/model.h"
#include "src/tensor/matrix.h"

namespace nibble {
namespace {

// use(x as the layer's weights see it).
template <typename Use>
void with_inputs(const Linear& linear, ConstMatrixRef x, const Use& use) {
  if (!linear.simulated) return use(x);
  const SimulatedInputs& inputs = *linear.simulated;
  use(simulate_activations(x, inputs.scheme, inputs.scale, inputs.zero));
}

}  // namespace

void apply_norm(const Config& config, const NormWeights& norm, ConstMatrixRef x, MatrixRef y) {
  if (norm.weight.size() == 0) return;
  const auto epsilon = static_cast<float>(config.norm_epsilon);
  if (config.architecture->norm == Norm::kRms) {
    rms_norm(x, norm.weight, epsilon, y);
  } else {
    layer_norm(x, norm.weight, norm.bias, epsilon, y);
  }
}

void apply_linear(const Linear& linear, ConstMatrixRef x, MatrixRef y) {
  with_inputs(linear, x, [&](ConstMatrixRef inputs) {
    if (linear.packed) {
      dequant_matmul(inputs, *linear.packed, y);
    } else if (linear.int8) {
      int8_matmul(inputs, *linear.int8, y);
    } else {
      matmul(inputs, linear.dense, y);
    }
  });
  if (linear.bias.size() != 0) add_row(linear.bias, y);
}

void add_linear(const Linear& linear, ConstMatrixRef x, Workspace& workspace, MatrixRef y) {
  with_inputs(linear, x, [&](ConstMatrixRef inputs) {
    if (linear.packed) {
      auto product = workspace.take(Workspace::kProduct, y.rows(), y.cols());
      dequant_matmul(inputs, *linear.packed, product);
      y += product;
    } else if (linear.int8) {
      int8_matmul(inputs, *linear.int8, y, Accumulate::kYes);
    } else {
      matmul(inputs, linear.dense, y, Accumulate::kYes);
    }
  });
  if (linear.bias.size() != 0) add_row(linear.bias, y);
}

void apply_linear_rows(const Linear& linear, ConstMatrixRef x, int64_t first, MatrixRef y) {
  with_inputs(linear, x, [&](ConstMatrixRef inputs) {
    if (linear.packed) {
      Matrix rows(y.cols(), linear.K);
      unpack_rows(*linear.packed, first, rows);
      matmul(inputs, make_panels(rows), y);
    } else if (linear.int8) {
      int8_matmul_columns(inputs, *linear.int8, first, y);
    } else {
      matmul_columns(inputs, linear.dense, first, y);
    }
  });
  if (linear.bias.size() != 0) add_row(linear.bias.segment(first, y.cols()), y);
}

void apply_activation(const Config& config, ConstMatrixRef gate, MatrixRef up) {
  const auto function = config.activation == Activation::kSilu       ? silu
                        : config.activation == Activation::kGeluTanh ? gelu_tanh
                                                                     : gelu_erf;
  if (gate.rows() != 0) {
    function(gate, up, up);
  } else {
    function(up, gate, up);
  }
}

}  // namespace nibble
