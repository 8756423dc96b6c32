// Schemes as JSON, every field of src/quantized/scheme.h under its own name and nothing left out,
// so that reading back gives an equal Scheme. Fields at their default are omitted.
#pragma once

#include <string>

#include "formats/json.h"
#include "src/quantized/scheme.h"

namespace nibble {

Json scheme_to_json(const Scheme& scheme);
// Throws Error(where, ...) naming an unknown, missing or unfit field: a scheme that passes is safe
// to compute with.
Scheme scheme_from_json(const Json& json, const std::string& where);

}  // namespace nibble
