// The rows of the format table, one a file. Private to this folder: others use formats().
#pragma once

#include "formats/format.h"

namespace nibble {

extern const Format kCompressedTensors;
extern const Format kGptq;
extern const Format kAwq;
extern const Format kAwqGemv;
extern const Format kAwqGemvFast;
extern const Format kTinychat;
extern const Format kBitsandbytes;
extern const Format kFp8;
extern const Format kModelopt;
extern const Format kGguf;
extern const Format kNibble;
extern const Format kDense;

}  // namespace nibble
