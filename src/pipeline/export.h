// export: the same codes in another format, bit for bit, or the reason why that is not exact.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "src/pipeline/quantize.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/dtype.h"

namespace nibble {

struct ExportOptions {
  std::string format;
  std::optional<Dtype> dtype;  // dense: of what is multiplied out; none: the model's
  OutputOptions output;
};

struct ExportReport {
  int64_t modules = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  double seconds = 0;
  std::vector<std::string> warnings;
};

// The layer as the format holds it: as it is, with scales in the format's type where that loses
// nothing, or the same weights under a scheme that it has (src/quantized/recast.h). Throws Error
// naming the module, with the reasons why none of these is exact.
QuantizedLinear repacked(QuantizedLinear q, const FormatModule& module, const Format& target,
                         Dtype model_dtype);

// Throws Error naming the first module that the format cannot hold exactly.
ExportReport export_checkpoint(std::shared_ptr<const Checkpoint> checkpoint,
                               const ExportOptions& options, const Progress& progress);

}  // namespace nibble
