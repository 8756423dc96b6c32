#include "src/quantized/range_rule.h"
