#include "src/pipeline/method.h"

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::array<std::string_view, 1> kAwq = {"awq"};
constexpr std::array<std::string_view, 1> kSmoothQuant = {"smoothquant"};

constexpr std::array<Method, 9> kMethods = {{
    {"rtn", "round to nearest, min-max ranges", "-", {}, "rtn", "", false},
    {"gptq",
     "codes column by column against the Hessian, refined, corrected for the quantized past",
     "Frantar et al. 2022, arXiv 2210.17323",
     {},
     "gptq",
     "",
     true},
    {"awq", "columns with large inputs protected by scales, ranges clipped, rounded to nearest",
     "Lin et al. 2023, arXiv 2306.00978", kAwq, "rtn", "", true},
    {"awq+gptq", "awq's scales, then gptq", "both", kAwq, "gptq", "", true},
    {"smoothquant", "outliers of activations moved into the weights, rounded to nearest",
     "Xiao et al. 2022, arXiv 2211.10438", kSmoothQuant, "rtn", "w8a8", true},
    {"smoothquant+gptq", "smoothquant's scales, then gptq", "both", kSmoothQuant, "gptq", "w8a8",
     true},
    {"nf4",
     "16 levels of a normal distribution, blocks of 64",
     "Dettmers et al. 2023, arXiv 2305.14314",
     {},
     "rtn",
     "nf4",
     false},
    {"fp4",
     "bitsandbytes' 4-bit floating point, blocks of 64",
     "bitsandbytes",
     {},
     "rtn",
     "fp4",
     false},
    {"kmeans",
     "a codebook of its own for every row, the best there is, weighted by diag(H) if known",
     "Lloyd 1982; exact in one dimension",
     {},
     "kmeans",
     "kmeans",
     false},
}};

}  // namespace

std::span<const Method> methods() { return kMethods; }

const Method& method(const std::string& name) {
  std::vector<std::string> known;
  for (const Method& row : kMethods) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("--method", "unknown method '" + name + "'",
              nearest.empty() ? "see 'nibble list methods'" : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
