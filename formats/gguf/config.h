// config.json and the metadata of a GGUF file: the same numbers under other keys.
#pragma once

#include "formats/gguf/container.h"
#include "formats/json.h"

namespace nibble {

// Factors of rotary frequencies, which become a rope_scaling.
inline constexpr const char* kRopeFactors = "rope_freqs.weight";
// After "<architecture>.": the context that they are made for; 8192 without it.
inline constexpr const char* kRopeOriginalContext = "rope.scaling.original_context_length";

// The config.json of the model in a GGUF file. Throws Error naming file and key for an architecture
// that is not known and for keys that are missing or of the wrong type; what its numbers must be is
// for read_config to say.
Json config_from_gguf(const GgufFile& file);

}  // namespace nibble
