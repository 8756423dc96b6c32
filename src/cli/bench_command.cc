// nibble bench kernels [--check] [--model DIR]
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/json.h"
#include "kernels/bench/bench_case.h"
#include "src/cli/command.h"
#include "src/cli/output.h"
#include "src/pipeline/bench_kernels.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

// As typed.
struct BenchArguments {
  std::string what = "kernels";
  std::string device = "auto";
  BenchOptions options;
};

BenchOptions::Where where_from_name(const std::string& name) {
  using Where = BenchOptions::Where;
  constexpr std::array<std::pair<const char*, Where>, 3> kNames = {
      {{"auto", Where::kAuto}, {"cpu", Where::kCpu}, {"cuda", Where::kCuda}}};
  for (const auto& [known, where] : kNames) {
    if (name == known) return where;
  }
  throw Error("--device", "unknown device '" + name + "'", "known: auto, cpu, cuda");
}

Json roofs_json(const Roofs& roofs) {
  Json json = {{"bytes_per_second", roofs.bytes_per_second},
               {"operations_per_second", roofs.operations_per_second}};
  if (roofs.integer_operations_per_second > 0) {
    json["integer_operations_per_second"] = roofs.integer_operations_per_second;
  }
  return json;
}

Json result_json(const BenchResult& result) {
  const BenchCase& product = result.product;
  Json json = {{"device", result.device},
               {"kernel", result.kernel},
               {"layer", product.layer},
               {"scheme", describe(product.scheme)},
               {"type", dtype_name(product.type)},
               {"m", product.M},
               {"n", product.N},
               {"k", product.K},
               {"group", group_columns(product.scheme, product.K)},
               {"bias", product.bias},
               {"max_error", result.judgement.max_error},
               {"share_of_allowed_error", result.judgement.share_of_allowed},
               {"passed", result.judgement.problem.empty()}};
  if (!result.judgement.problem.empty()) json["problem"] = result.judgement.problem;
  if (!result.timing) return json;
  const Timing& timing = *result.timing;
  json["microseconds"] = timing.microseconds;
  json[result.device == "cuda" ? "cublas_fp16_microseconds" : "dense_fp32_microseconds"] =
      timing.dense_microseconds;
  json["share_of_roof"] = timing.share_of_roof;
  return json;
}

Json report_json(const BenchReport& report) {
  Json json;
  json["gpu"] = report.device ? Json(report.device->name) : Json();
  if (report.device) {
    json["compute_capability"] = report.device->capability;
    json["cuda_driver"] = report.device->cuda_driver;
  } else {
    json["gpu_refusal"] = report.gpu_refusal;
  }
  json["roofs"] = Json::object();
  if (report.cpu) json["roofs"]["cpu"] = roofs_json(*report.cpu);
  if (report.gpu) json["roofs"]["cuda"] = roofs_json(*report.gpu);
  json["passed"] = report.passed();
  json["kernels"] = Json::array();
  for (const BenchResult& result : report.results) json["kernels"].push_back(result_json(result));
  json["skipped"] = Json::array();
  for (const BenchReport::Skipped& skipped : report.skipped) {
    json["skipped"].push_back(
        {{"layer", skipped.layer}, {"device", skipped.device}, {"reason", skipped.reason}});
  }
  return json;
}

std::string shape_of(const BenchCase& product) {
  return std::to_string(product.M) + "x" + std::to_string(product.N) + "x" +
         std::to_string(product.K);
}

void print_timed(const BenchReport& report) {
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "weights", "MxNxK", "us", "GB/s", "GFLOP/s", "of roof", "dense/ours", "error"}};
  for (const BenchResult& result : report.results) {
    if (!result.timing) continue;
    const Timing& t = *result.timing;
    rows.push_back({result.kernel, describe(result.product.scheme), shape_of(result.product),
                    format_number(t.microseconds, 1),
                    format_number(t.bytes / t.microseconds * 1e-3, 1),
                    format_number(t.operations / t.microseconds * 1e-3, 0),
                    format_number(100 * t.share_of_roof, 0) + " %",
                    format_number(t.dense_microseconds / t.microseconds, 2),
                    format_number(1e6 * result.judgement.max_error, 2) + "e-6"});
  }
  if (rows.size() > 1) print(format_table(rows));
}

// The products that were not timed, kernel by kernel: how many, and the worst.
void print_checked(const BenchReport& report) {
  struct Row {
    std::string kernel;
    int64_t products = 0;
    double max_error = 0, share = 0;
  };
  std::vector<Row> kernels;
  for (const BenchResult& result : report.results) {
    const auto found = std::ranges::find(kernels, result.kernel, &Row::kernel);
    Row& row = found != kernels.end() ? *found : kernels.emplace_back(Row{result.kernel});
    ++row.products;
    row.max_error = std::max(row.max_error, result.judgement.max_error);
    row.share = std::max(row.share, result.judgement.share_of_allowed);
  }
  std::vector<std::vector<std::string>> rows = {
      {"against float64", "products", "largest error", "of what rounding allows"}};
  for (const Row& row : kernels) {
    rows.push_back({row.kernel, std::to_string(row.products),
                    format_number(1e6 * row.max_error, 2) + "e-6",
                    format_number(100 * row.share, 1) + " %"});
  }
  print(format_table(rows));
}

void print_report(const BenchReport& report) {
  const auto print_roofs = [](const std::string& name, const Roofs& roofs) {
    print(name + ": reads " + format_number(roofs.bytes_per_second * 1e-9, 1) +
          " GB/s, dense products " + format_number(roofs.operations_per_second * 1e-9, 0) +
          " GFLOP/s");
  };
  if (report.cpu) print_roofs("cpu, fp32", *report.cpu);
  if (report.gpu) print_roofs(report.device->name + ", cuBLAS fp16", *report.gpu);
  print_timed(report);
  print_checked(report);
  for (const BenchReport::Skipped& skipped : report.skipped) {
    print("no kernel on " + skipped.device + ": " + skipped.layer + ": " + skipped.reason);
  }
  if (!report.device) {
    print("GPU kernels have not run: " + report.gpu_refusal);
  }
}

int run(BenchArguments& typed, const CommandLine& line) {
  if (typed.what != "kernels") {
    throw Error("bench", "unknown measurement '" + typed.what + "'", "known: kernels");
  }
  typed.options.where = where_from_name(typed.device);
  const BenchReport report = bench_kernels(typed.options, make_progress(line));
  if (line.json) {
    print_json(report_json(report));
  } else {
    print_report(report);
  }
  for (const BenchResult& result : report.results) {
    if (result.judgement.problem.empty()) continue;
    print_message("wrong: " + result.kernel + ", " + describe(result.product.scheme) + ", " +
                  result.product.layer + ", " + shape_of(result.product) + ": " +
                  result.judgement.problem);
  }
  return report.passed() ? kDone : kGateFailed;
}

}  // namespace

void declare_bench(CLI::App& command, CommandLine& line) {
  auto typed = std::make_shared<BenchArguments>();
  command.add_option("WHAT", typed->what, "kernels: products with quantized layers")->required();
  command.add_flag(
      "--check", typed->options.check,
      "every kernel over shapes, groups and ragged edges; exit with 1 if one is wrong");
  command.add_flag("!--no-timing", typed->options.timing,
                   "errors alone, without what is only timed");
  command.add_option("--model", typed->options.model, "also the quantized layers of a model");
  command.add_option("--device", typed->device, "auto (a GPU if there is one), cpu or cuda")
      ->capture_default_str();
  line.run = [typed, &line] { return run(*typed, line); };
}

}  // namespace nibble
