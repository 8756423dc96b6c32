#include "quantizers/transforms/transforms.h"

#include <array>
#include <cstdio>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/transforms/awq.h"
#include "quantizers/transforms/scale_group.h"
#include "quantizers/transforms/smoothquant.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

std::string decimals(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f", value);
  return text.data();
}

FoundScales find_awq(const ScaleGroup& group, const TransformOptions& /*options*/,
                     const GroupScore& score) {
  AwqScales found = search_awq_scales(group, score);
  const bool identity = found.ratio == 0 && !found.duo;
  return {
      .s = std::move(found.s),
      .how = identity ? "identity" : "ratio " + decimals(found.ratio) + (found.duo ? ", duo" : ""),
      .score_before = found.score_before,
      .score_after = found.score_after};
}

FoundScales find_smoothquant(const ScaleGroup& group, const TransformOptions& options,
                             const GroupScore& /*score*/) {
  SmoothQuantScales found = find_smoothquant_scales(group, options.alpha);
  return {.s = std::move(found.s),
          .how = found.identity ? "identity" : "alpha " + decimals(found.alpha),
          .score_before = found.score_before,
          .score_after = found.score_after};
}

constexpr std::array<Transform, 2> kTransforms = {{
    {.name = "awq",
     .summary = "columns with large inputs scaled up, by a search over the Hessian's error",
     .source = "Lin et al. 2023, arXiv 2306.00978",
     .scales_after_linears = true,
     .find = find_awq},
    {.name = "smoothquant",
     .summary = "outliers of activations moved into the weights",
     .source = "Xiao et al. 2022, arXiv 2211.10438",
     .scales_after_linears = false,
     .find = find_smoothquant},
}};

}  // namespace

std::span<const Transform> transforms() { return kTransforms; }

const Transform& transform(const std::string& name) {
  std::vector<std::string> known;
  std::string list;
  for (const Transform& row : kTransforms) {
    if (row.name == name) return row;
    known.emplace_back(row.name);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string nearest = nearest_name(name, known);
  throw Error("", "no transform '" + name + "'",
              nearest.empty() ? "known: " + list : "did you mean '" + nearest + "'?");
}

}  // namespace nibble
