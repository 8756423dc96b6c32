#include "src/pipeline/block_transforms.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calibration/stats.h"
#include "quantizers/transforms/fold_scales.h"
#include "quantizers/transforms/scale_group.h"
#include "quantizers/transforms/transforms.h"
#include "src/architecture/architecture.h"
#include "src/model/config.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/pipeline/block_inputs.h"
#include "src/pipeline/plan.h"
#include "src/pipeline/quantize.h"
#include "src/tensor/convert.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

Vector as_vector(const std::vector<float>& values) {
  return ConstVectorMap(values.data(), std::ssize(values));
}

bool has_role(const LinearModule& module, Role role) {
  return std::find(module.roles.begin(), module.roles.end(), role) != module.roles.end();
}

// One block while its scales are found.
class BlockTransforms {
 public:
  BlockTransforms(const Plan& plan, int64_t block, BlockInputs& inputs)
      : plan_(plan), block_(block), inputs_(inputs) {
    for (const PlannedModule& module : plan.modules) {
      if (module.module.block == block) modules_.push_back(&module);
    }
  }

  TransformedBlock run() {
    for (const std::string& name : plan_.transforms) {
      const Transform& row = transform(name);
      for (const InputGroup group : kBlockGroups) {
        const bool after_norm = group == InputGroup::kAttention || group == InputGroup::kMlp;
        if (after_norm || row.scales_after_linears) scale(row, group);
      }
    }
    collect_rewritten();
    return std::move(result_);
  }

 private:
  void scale(const Transform& row, InputGroup group) {
    TransformReport report{.block = block_,
                           .group = std::string(input_group_name(group)),
                           .transform = std::string(row.name)};
    const std::string reason = refusal(group);
    if (reason.empty()) {
      const ScaleGroup problem = scale_group(group);
      const FoundScales found = row.find(problem, plan_.recipe.transform_options, score(group));
      const Vector s = fold(group, found.s, report);
      report.how = found.how;
      report.score_before = found.score_before;
      report.score_after = found.score_after;
      report.smallest = s.minCoeff();
      report.largest = s.maxCoeff();
      multiply(result_.rescaling.inputs, group, s);
      for (const ScaledLayer& layer : problem.layers) {
        multiply(result_.rescaling.columns, layer.name, s);
      }
    } else {
      report.how = "left alone: " + reason;
    }
    result_.groups.push_back(std::move(report));
  }

  // Empty, or why the group cannot be scaled.
  std::string refusal(InputGroup group) const {
    for (const PlannedModule* module : modules_) {
      if (module->module.input == group && !module->target.scheme) {
        return module->module.name + " is not quantized";
      }
    }
    if (group == InputGroup::kAttention || group == InputGroup::kMlp) return {};
    if (group == InputGroup::kMlpDown && find(Role::kGate) == nullptr) {
      return "an activation function stands between it and the layer before";
    }
    const PlannedModule* source = feeder(group);
    return source->target.scheme ? std::string() : source->module.name + " is not quantized";
  }

  const PlannedModule* find(Role role) const {
    const auto found = std::find_if(modules_.begin(), modules_.end(), [&](const PlannedModule* m) {
      return has_role(m->module, role);
    });
    return found == modules_.end() ? nullptr : *found;
  }

  // The linear layer whose rows feed the group.
  static Role feeding_role(InputGroup group) {
    return group == InputGroup::kAttentionOutput ? Role::kValue : Role::kUp;
  }
  const PlannedModule* feeder(InputGroup group) const { return find(feeding_role(group)); }

  ScaleGroup scale_group(InputGroup group) {
    ScaleGroup problem;
    if (!statistics_.contains(group)) {
      statistics_.emplace(group, inputs_.collect(group).fitted.inputs);
    }
    problem.inputs = statistics_.at(group);
    if (const auto scaled = result_.rescaling.inputs.find(group);
        scaled != result_.rescaling.inputs.end()) {
      divide_inputs(problem.inputs, scaled->second);
    }
    for (const PlannedModule* module : modules_) {
      if (module->module.input != group) continue;
      Matrix W = load_weight(*plan_.checkpoint, plan_.layout, module->module);
      result_.rescaling.apply_to(module->module.name, W);
      problem.layers.push_back(
          {.name = module->module.name, .W = std::move(W), .scheme = *module->target.scheme});
    }
    const Config& config = plan_.layout.config;
    if (group == InputGroup::kAttentionOutput && config.heads != config.key_value_heads) {
      problem.tied = value_row_of_input(config.heads, config.key_value_heads, config.head_size);
    }
    return problem;
  }

  GroupScore score(InputGroup group) {
    if (!plan_.recipe.awq_block_search) return {};
    std::vector<const LinearModule*> layers;
    for (const PlannedModule* module : modules_) {
      if (module->module.input == group) layers.push_back(&module->module);
    }
    return [this, layers](std::span<const Matrix> weights) {
      return inputs_.block_loss(layers, weights);
    };
  }

  // Returns what the inputs are really divided by.
  Vector fold(InputGroup group, const Vector& s, TransformReport& report) {
    const ModelLayout::BlockNorms& norms = plan_.layout.norms.at(static_cast<size_t>(block_));
    if (group == InputGroup::kAttention) {
      return fold_norm(norms.attention, result_.rescaling.attention_norm, s, report);
    }
    if (group == InputGroup::kMlp) {
      return fold_norm(norms.mlp, result_.rescaling.mlp_norm, s, report);
    }
    fold_rows(group, s);
    return s;
  }

  Vector fold_norm(const std::string& name, std::optional<NormWeights>& norm, const Vector& s,
                   TransformReport& report) {
    if (!norm) {
      norm.emplace();
      norm->weight = as_vector(load_floats(*plan_.checkpoint, name + ".weight"));
      if (plan_.layout.config.architecture->norm == Norm::kLayer) {
        norm->bias = as_vector(load_floats(*plan_.checkpoint, name + ".bias"));
      }
    }
    FoldedNorm folded =
        fold_into_norm(norm->weight, norm->bias, s, written(name + ".weight").dtype);
    norm->weight = std::move(folded.weight);
    norm->bias = std::move(folded.bias);
    report.limited = folded.limited;
    norm_names_[&norm] = name;
    return folded.scales;
  }

  void fold_rows(InputGroup group, const Vector& s) {
    const Config& config = plan_.layout.config;
    const LinearModule& module = feeder(group)->module;
    const auto [first, count] = ModelLayout::rows_of(config, module, feeding_role(group));
    Vector factors = Vector::Ones(module.N);
    if (group == InputGroup::kAttentionOutput) {
      const std::vector<int32_t> rows =
          value_row_of_input(config.heads, config.key_value_heads, config.head_size);
      for (int64_t k = 0; k < s.size(); ++k) {
        factors(first + rows[static_cast<size_t>(k)]) = 1.F / s(k);
      }
    } else {
      factors.segment(first, count) = s.cwiseInverse();
    }
    multiply(result_.rescaling.rows, module.name, factors);
  }

  template <typename Map, typename Key>
  static void multiply(Map& factors, const Key& key, const Vector& by) {
    const auto [place, is_new] = factors.emplace(key, by);
    if (!is_new) place->second = place->second.cwiseProduct(by);
  }

  const TensorInfo& written(const std::string& tensor) const {
    const auto found =
        std::find_if(plan_.tensors.begin(), plan_.tensors.end(),
                     [&](const PlannedTensor& planned) { return planned.source == tensor; });
    if (found == plan_.tensors.end()) throw Error(tensor, "is no tensor of the output");
    return found->written;
  }

  void rewrite(const std::string& tensor, const Vector& values) {
    const TensorInfo& info = written(tensor);
    Tensor stored = Tensor::allocate(info.dtype, info.shape);
    const RoundingLoss loss = from_float({values.data(), static_cast<size_t>(values.size())},
                                         info.dtype, stored.mutable_bytes());
    if (loss.overflowed > 0) {
      throw Error("tensor '" + tensor + "'",
                  "a rescaled value does not fit in " + std::string(dtype_name(info.dtype)),
                  "try --dtype bf16 or f32");
    }
    result_.rewritten.push_back({info.name, std::move(stored)});
  }

  void collect_rewritten() {
    for (const auto& [norm, name] : norm_names_) {
      rewrite(name + ".weight", (*norm)->weight);
      if ((*norm)->bias.size() != 0) rewrite(name + ".bias", (*norm)->bias);
    }
    for (const PlannedModule* module : modules_) {
      const auto rows = result_.rescaling.rows.find(module->module.name);
      if (rows == result_.rescaling.rows.end() || module->module.bias.empty()) continue;
      const Vector bias = as_vector(load_floats(*plan_.checkpoint, module->module.bias));
      rewrite(module->module.bias, bias.cwiseProduct(rows->second));
    }
  }

  const Plan& plan_;
  int64_t block_;
  BlockInputs& inputs_;
  std::vector<const PlannedModule*> modules_;
  std::map<InputGroup, InputStatistics> statistics_;  // of the block as it was
  std::map<const std::optional<NormWeights>*, std::string> norm_names_;
  TransformedBlock result_;
};

}  // namespace

TransformedBlock transform_block(const Plan& plan, int64_t block, BlockInputs& inputs) {
  return BlockTransforms(plan, block, inputs).run();
}

}  // namespace nibble
