#include "kernels/bench/bench_case.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/quantized/normal_float.h"
#include "src/quantized/scheme.h"
#include "src/quantized/second_level.h"
#include "src/tensor/dtype.h"

namespace nibble {
namespace {

Scheme with_activations(Scheme scheme) {
  scheme.activations = ActivationScheme{};
  return scheme;
}

Scheme int4(int64_t group = 128, bool symmetric = true) {
  return integer_scheme(4, group, symmetric, Dtype::kF16);
}
Scheme w8a16() { return integer_scheme(8, 128, true, Dtype::kF16); }
Scheme w8a8() { return with_activations(integer_scheme(8, kAll, true, Dtype::kF32)); }
Scheme w4a8() { return with_activations(progressive_scheme(128)); }

// Weights with 16-bit activations, or float ones.
std::vector<Scheme> weight_schemes() {
  std::vector<Scheme> schemes;
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, kAll}) {
      schemes.push_back(int4(group, symmetric));
    }
    schemes.push_back(integer_scheme(4, 128, symmetric, Dtype::kBF16));
    schemes.push_back(integer_scheme(3, 128, symmetric, Dtype::kF16));
    schemes.push_back(integer_scheme(2, 64, symmetric, Dtype::kF16));
    schemes.push_back(integer_scheme(8, 32, symmetric, Dtype::kF16));
    schemes.push_back(integer_scheme(8, kAll, symmetric, Dtype::kF32));
    schemes.push_back(nf4_scheme(64, symmetric));
    schemes.push_back(fp4_scheme(64, symmetric));
  }
  return schemes;
}

std::vector<Scheme> activation_schemes() {
  return {w8a8(), with_activations(progressive_scheme(64)), w4a8(),
          with_activations(progressive_scheme(kAll))};
}

struct Shape2 {
  int64_t N, K;
};

void add_ragged(std::vector<BenchCase>& cases, const Scheme& scheme, Dtype type,
                const std::vector<int64_t>& tokens) {
  // Flattened blocks end with their rows; others stop short of everything.
  const std::vector<Shape2> shapes = scheme.blocking.flattened
                                         ? std::vector<Shape2>{{70, 832}, {257, 192}}
                                         : std::vector<Shape2>{{70, 840}, {257, 100}};
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Shape2 shape = shapes[i % shapes.size()];
    cases.push_back({.scheme = scheme,
                     .type = type,
                     .M = tokens[i],
                     .N = shape.N,
                     .K = shape.K,
                     .bias = i % 2 == 1});
  }
}

}  // namespace

std::vector<BenchCase> cpu_cases(bool check) {
  std::vector<BenchCase> cases;
  const auto time = [&](const Scheme& scheme, int64_t M) {
    cases.push_back(
        {.scheme = scheme, .type = Dtype::kF32, .M = M, .N = 4096, .K = 4096, .timed = true});
  };
  for (const int64_t M : {1, 8, 128}) {
    time(int4(), M);
    time(int4(128, false), M);
    time(nf4_scheme(64, true), M);
    time(w8a16(), M);
    time(w8a8(), M);
  }
  if (!check) return cases;
  for (const Scheme& scheme : weight_schemes()) {
    add_ragged(cases, scheme, Dtype::kF32, {1, 2, 7, 24, 25, 50});
  }
  for (const Scheme& scheme : activation_schemes()) {
    add_ragged(cases, scheme, Dtype::kF32, {1, 5, 33, 64});
  }
  return cases;
}

std::vector<BenchCase> device_cases(bool check) {
  std::vector<BenchCase> cases;
  const auto time = [&](const Scheme& scheme, int64_t M, Shape2 shape = {8192, 8192},
                        Dtype type = Dtype::kF16) {
    cases.push_back(
        {.scheme = scheme, .type = type, .M = M, .N = shape.N, .K = shape.K, .timed = true});
  };
  for (const Shape2 shape : {Shape2{28672, 8192}, Shape2{8192, 8192}, Shape2{4096, 4096}}) {
    time(int4(), 1, shape);
    time(nf4_scheme(64, true), 1, shape);
  }
  for (const int64_t M : {8, 16, 32, 64, 128, 256, 511, 512, 1024, 4096}) time(int4(), M);
  time(int4(128, false), 1);
  time(int4(), 1, {8192, 8192}, Dtype::kBF16);
  for (const int64_t M : {16, 64, 1024}) time(nf4_scheme(64, true), M);
  for (const int64_t M : {1, 16, 1024}) time(w8a16(), M);
  for (const Scheme& scheme : {w8a8(), w4a8()}) {
    for (const int64_t M : {1, 16, 64, 2048, 4096}) time(scheme, M);
  }
  if (!check) return cases;
  for (const Dtype type : {Dtype::kF16, Dtype::kBF16}) {
    for (const Scheme& scheme : weight_schemes()) {
      add_ragged(cases, scheme, type, {1, 8, 9, 16, 17, 50, 511, 512, 777});
    }
    for (const Scheme& scheme : activation_schemes()) {
      add_ragged(cases, scheme, type, {1, 8, 9, 16, 17, 33, 100, 513});
    }
  }
  return cases;
}

std::vector<BenchCase> layer_cases(const std::string& layer, const Scheme& scheme, int64_t N,
                                   int64_t K, bool on_device) {
  std::vector<BenchCase> cases;
  std::vector<int64_t> tokens = {1, 13, 50};
  if (on_device) tokens.push_back(600);
  for (const int64_t M : tokens) {
    cases.push_back({.layer = layer,
                     .scheme = scheme,
                     .type = on_device ? Dtype::kF16 : Dtype::kF32,
                     .M = M,
                     .N = N,
                     .K = K});
  }
  return cases;
}

double share_of_roof(const Timing& timing, const Roofs& roofs, bool integers) {
  const double rate = integers ? roofs.integer_operations_per_second : roofs.operations_per_second;
  const double moving = timing.bytes / roofs.bytes_per_second;
  const double computing = rate > 0 ? timing.operations / rate : 0.;
  return std::max(moving, computing) * 1e6 / timing.microseconds;
}

int64_t group_columns(const Scheme& scheme, int64_t K) {
  return scheme.blocking.columns == kAll ? K : std::min(scheme.blocking.columns, K);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace nibble
