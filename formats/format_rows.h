// The rows of the format table, one a file. Private to this folder: others use formats().
#pragma once

#include "formats/format.h"

// A namespace each, because the functions of all rows have the names of Format's members.
namespace nibble::compressed_tensors_format {
extern const Format kFormat;
}
namespace nibble::gptq_format {
extern const Format kFormat;
}
namespace nibble::awq_gemm_format {
extern const Format kFormat;
}
namespace nibble::awq_gemv_format {
extern const Format kFormat;
}
namespace nibble::tinychat_format {
extern const Format kFormat;
extern const Format kGemvFast;  // AutoAWQ's version of the same bytes
}  // namespace nibble::tinychat_format
namespace nibble::bitsandbytes_format {
extern const Format kFormat;
}
namespace nibble::fp8_format {
extern const Format kFormat;
}
namespace nibble::modelopt_format {
extern const Format kFormat;
}
namespace nibble::gguf_format {
extern const Format kFormat;
}
namespace nibble::nibble_format {
extern const Format kFormat;
}
namespace nibble::dense_format {
extern const Format kFormat;
}
