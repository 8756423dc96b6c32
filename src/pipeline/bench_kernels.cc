#include "src/pipeline/bench_kernels.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "kernels/bench/bench_case.h"
#include "kernels/bench/cpu_bench.h"
#include "kernels/bench/device_bench.h"
#include "kernels/bench/linear_reference.h"
#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/fragment_linear.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/pipeline/progress.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

constexpr uint32_t kSeed = 7;

// One device: what it takes, and how it runs a product.
struct Target {
  std::string name;  // "cpu", "cuda"
  std::vector<BenchCase> cases;
  std::function<std::string(const QuantizedLinear&)> refusal;
  std::function<std::vector<BenchResult>(const BenchCase&, const QuantizedLinear&)> run;
};

class KernelBench {
 public:
  KernelBench(const BenchOptions& options, const Progress& progress)
      : options_(options), progress_(progress) {}

  BenchReport run() {
    choose_targets();
    run_random_layers();
    if (!options_.model.empty()) run_model();
    return std::move(report_);
  }

 private:
  void choose_targets() {
    using Where = BenchOptions::Where;
    if (!options_.timing && !options_.check && options_.model.empty()) {
      throw Error("--no-timing", "leaves nothing to do", "add --check or --model DIR");
    }
    report_.gpu_refusal = options_.where == Where::kCpu ? "not asked for" : cuda_refusal();
    if (options_.where == Where::kCuda && !report_.gpu_refusal.empty()) {
      throw Error("--device cuda", report_.gpu_refusal, "--device cpu runs the kernels of the CPU");
    }
    tell("measuring memory and dense products", 0, 1);
    if (options_.where != Where::kCuda) add_cpu();
    if (report_.gpu_refusal.empty()) add_gpu();
  }

  void add_cpu() {
    cpu_.emplace(options_.timing);
    if (options_.timing) report_.cpu = cpu_->roofs();
    targets_.push_back({"cpu", cpu_cases(options_.check), cpu_refusal,
                        [this](const BenchCase& product, const QuantizedLinear& q) {
                          return cpu_->run(product, q);
                        }});
  }

  void add_gpu() {
    gpu_.emplace(options_.timing);
    if (options_.timing) report_.gpu = gpu_->roofs();
    report_.device = gpu_->device();
    targets_.push_back({"cuda", device_cases(options_.check), fragment_refusal,
                        [this](const BenchCase& product, const QuantizedLinear& q) {
                          return std::vector{gpu_->run(product, q)};
                        }});
  }

  // Neighbouring cases have the same layer.
  void run_random_layers() {
    for (const Target& target : targets_) {
      std::optional<QuantizedLinear> q;
      int64_t done = 0;
      for (const BenchCase& product : target.cases) {
        if (product.timed && !options_.timing) continue;
        tell(target.name + ", " + describe(product.scheme), done++, std::ssize(target.cases));
        if (!q || q->scheme != product.scheme || q->N != product.N || q->K != product.K) {
          q = random_layer(product.scheme, product.N, product.K, kSeed);
        }
        add(target.run(product, *q));
      }
    }
  }

  void run_model() {
    const Checkpoint checkpoint = open_checkpoint(options_.model);
    const ModelLayout layout = read_layout(checkpoint);
    int64_t done = 0;
    int64_t quantized = 0;
    for (const LinearModule& module : layout.linears) {
      tell(module.name, done++, std::ssize(layout.linears));
      if (module.quantized_tensors.empty()) continue;
      ++quantized;
      const QuantizedLinear q = layout.format->decode(checkpoint, module.name, module.N, module.K);
      for (const Target& target : targets_) run_layer(target, module.name, q);
    }
    if (quantized == 0) {
      throw Error(options_.model.string(), "no quantized layers", "make them by nibble quantize");
    }
  }

  void run_layer(const Target& target, const std::string& name, const QuantizedLinear& q) {
    if (const std::string reason = target.refusal(q); !reason.empty()) {
      report_.skipped.push_back({name, target.name, reason});
      return;
    }
    // A model has many layers of few kinds.
    const bool is_new =
        timed_.insert(target.name + describe(q.scheme) + to_string(Shape{q.N, q.K})).second;
    for (BenchCase product : layer_cases(name, q.scheme, q.N, q.K, target.name == "cuda")) {
      product.timed = is_new && options_.timing;
      add(target.run(product, q));
    }
  }

  void add(std::vector<BenchResult> results) {
    for (BenchResult& result : results) report_.results.push_back(std::move(result));
  }

  void tell(const std::string& detail, int64_t done, int64_t total) const {
    progress_({"measuring", done, total, "products", detail});
  }

  const BenchOptions& options_;
  const Progress& progress_;
  BenchReport report_;
  std::optional<CpuBench> cpu_;
  std::optional<DeviceBench> gpu_;
  std::vector<Target> targets_;
  std::set<std::string> timed_;
};

}  // namespace

bool BenchReport::passed() const {
  return std::ranges::all_of(
      results, [](const BenchResult& result) { return result.judgement.problem.empty(); });
}

BenchReport bench_kernels(const BenchOptions& options, const Progress& progress) {
  return KernelBench(options, progress).run();
}

}  // namespace nibble
