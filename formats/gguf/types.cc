#include "formats/gguf/types.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "src/tensor/dtype.h"

namespace nibble {
namespace {

constexpr std::array kTypes = {
    GgufType{0, "f32", 1, 4, Dtype::kF32},          GgufType{1, "f16", 1, 2, Dtype::kF16},
    GgufType{2, "q4_0", 32, 18, std::nullopt},      GgufType{3, "q4_1", 32, 20, std::nullopt},
    GgufType{6, "q5_0", 32, 22, std::nullopt},      GgufType{7, "q5_1", 32, 24, std::nullopt},
    GgufType{8, "q8_0", 32, 34, std::nullopt},      GgufType{9, "q8_1", 32, 36, std::nullopt},
    GgufType{10, "q2_k", 256, 84, std::nullopt},    GgufType{11, "q3_k", 256, 110, std::nullopt},
    GgufType{12, "q4_k", 256, 144, std::nullopt},   GgufType{13, "q5_k", 256, 176, std::nullopt},
    GgufType{14, "q6_k", 256, 210, std::nullopt},   GgufType{15, "q8_k", 256, 292, std::nullopt},
    GgufType{16, "iq2_xxs", 256, 66, std::nullopt}, GgufType{17, "iq2_xs", 256, 74, std::nullopt},
    GgufType{18, "iq3_xxs", 256, 98, std::nullopt}, GgufType{19, "iq1_s", 256, 50, std::nullopt},
    GgufType{20, "iq4_nl", 32, 18, std::nullopt},   GgufType{21, "iq3_s", 256, 110, std::nullopt},
    GgufType{22, "iq2_s", 256, 82, std::nullopt},   GgufType{23, "iq4_xs", 256, 136, std::nullopt},
    GgufType{24, "i8", 1, 1, Dtype::kI8},           GgufType{25, "i16", 1, 2, Dtype::kI16},
    GgufType{26, "i32", 1, 4, Dtype::kI32},         GgufType{27, "i64", 1, 8, Dtype::kI64},
    GgufType{28, "f64", 1, 8, Dtype::kF64},         GgufType{29, "iq1_m", 256, 56, std::nullopt},
    GgufType{30, "bf16", 1, 2, Dtype::kBF16},       GgufType{34, "tq1_0", 256, 54, std::nullopt},
    GgufType{35, "tq2_0", 256, 66, std::nullopt},   GgufType{39, "mxfp4", 32, 17, std::nullopt},
    GgufType{40, "nvfp4", 64, 36, std::nullopt},
};

template <typename Key, typename Value>
const GgufType* find_type(const Value& value, Key GgufType::*key) {
  const auto* type = std::ranges::find(kTypes, value, key);
  return type == kTypes.end() ? nullptr : type;
}

}  // namespace

const GgufType* gguf_type(uint32_t id) { return find_type(id, &GgufType::id); }
const GgufType* gguf_type(std::string_view name) { return find_type(name, &GgufType::name); }
const GgufType* gguf_type(Dtype dtype) { return find_type(std::optional(dtype), &GgufType::dtype); }

}  // namespace nibble
