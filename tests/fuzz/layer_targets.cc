// One quantized layer "m" in each format: the quantization config, and the tensors beside it. What
// decodes is dequantized, and encoded and decoded again where the format can hold it.
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "formats/json.h"
#include "src/quantized/float_schemes.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/llm_int8.h"
#include "src/quantized/normal_float.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

constexpr const char* kSizeN = "fuzz_n";
constexpr const char* kSizeK = "fuzz_k";

// N or K: what the architecture would say.
int64_t size_of(const Json& config, const char* key) {
  const auto found = config.is_object() ? config.find(key) : config.end();
  if (!config.is_object() || found == config.end() || !found->is_number_unsigned()) return 32;
  const auto size = found->get<uint64_t>();
  return size >= 1 && size <= uint64_t{1} << 31 ? static_cast<int64_t>(size) : 32;
}

// Encodes and decodes what was read, which must give the same.
void check_round_trip(const Format& format, const QuantizedLinear& q) {
  const FormatModule module = module_of("m", q);
  if (!format.refusal(module).empty()) return;
  Json config;
  config["quantization_config"] = format.config(std::span(&module, 1));
  std::vector<TensorSource> sources;
  for (const NamedTensor& part : format.encode(module, q)) {
    sources.push_back(
        {.stored = {.info = {part.name, part.tensor.dtype(), part.tensor.shape()}, .file = "again"},
         .load = [tensor = part.tensor] { return tensor; },
         .release = [] {}});
  }
  const Checkpoint checkpoint =
      Checkpoint::made_of("again", std::move(config), std::move(sources), {});
  const Format* written = format_of(checkpoint);
  if (written == nullptr) throw std::logic_error("the format does not know its own config");
  const QuantizedLinear again = written->decode(checkpoint, "m", q.N, q.K);
  if (fingerprint(again) != fingerprint(q)) throw std::logic_error("another layer comes back");
}

void run_layer(std::string_view input) {
  const auto files = files_of(input, 3);
  scratch("layer/config.json", files[0]);
  scratch("layer/model.safetensors", safetensors_of(files[1], files[2]));
  const Checkpoint checkpoint = Checkpoint::open(scratch_folder() / "layer");
  const Format* format = format_of(checkpoint);
  if (format == nullptr) return;
  const int64_t N = size_of(checkpoint.config(), kSizeN);
  const int64_t K = size_of(checkpoint.config(), kSizeK);
  if (format->contradictions != nullptr) format->contradictions(checkpoint, "m", nullptr);
  if (format->tensors_of(checkpoint, "m").empty()) return;
  const QuantizedLinear q = format->decode(checkpoint, "m", N, K);
  if (format->contradictions != nullptr) format->contradictions(checkpoint, "m", &q);
  if (N * K <= int64_t{1} << 20) dequantize(q);
  try {
    check_round_trip(*format, q);
  } catch (const Error&) {
    return;  // some arrays hold more than their scheme lets a format say: the Error says which
  }
}

std::vector<Scheme> schemes() {
  std::vector<Scheme> list;
  for (const int bits : {2, 3, 4, 8}) {
    list.push_back(integer_scheme(bits, 32, true, Dtype::kF16));
    list.push_back(integer_scheme(bits, 32, false, Dtype::kF16));
  }
  list.push_back(integer_scheme(8, kAll, true, Dtype::kF32));
  list.back().activations = ActivationScheme{};
  list.push_back(integer_scheme(8, kAll, true, Dtype::kF32, true));
  list.back().activations = ActivationScheme{.dynamic = false, .per_token = false};
  list.push_back(nf4_scheme(64, false));
  list.push_back(nf4_scheme(64, true));
  list.push_back(fp4_scheme(64, false));
  list.push_back(llm_int8_scheme());
  const ActivationScheme fp8_inputs = {.dynamic = false, .per_token = false, .is_float = true};
  for (const Blocking blocking :
       {Blocking{}, Blocking{.rows = kAll}, Blocking{.rows = 128, .columns = 128}}) {
    list.push_back(fp8_scheme(blocking, Dtype::kF32));
    list.push_back(list.back());
    list.back().activations = fp8_inputs;
    list.push_back(list.back());
    list.back().activations = ActivationScheme{.is_float = true};
    list.push_back(list.back());
    list.back().activations = ActivationScheme{.is_float = true, .columns = 128};
  }
  for (const bool divides : {false, true}) {
    list.push_back(nvfp4_scheme(divides));
    list.push_back(list.back());
    list.back().activations = ActivationScheme{
        .bits = 4, .dynamic = false, .is_float = true, .columns = kNvfp4Group, .divides = divides};
  }
  list.push_back(mxfp4_scheme());
  list.push_back(ggml_scheme("q4_k")->scheme);
  return list;
}

// Every scheme that the format holds, with column groups too.
std::vector<std::string> seeds_of(const std::vector<std::string>& names) {
  std::vector<std::string> seeds;
  for (const std::string& name : names) {
    const Format& row = format(name);
    for (const Scheme& scheme : schemes()) {
      const int64_t K = scheme == ggml_scheme("q4_k")->scheme ? 256 : 64;
      for (const bool column_groups : {false, true}) {
        if (column_groups && scheme.blocking.columns != 32) continue;
        QuantizedLinear q = random_layer(scheme, 32, K, 1, column_groups);
        if (is_llm_int8(scheme)) {
          q.scale.second = Tensor::copy_of(Dtype::kF32, {1}, std::span(&kOneOf127, 1));
        }
        if (!row.refusal(module_of("m", q)).empty()) continue;
        const auto folder = scratch_folder() / "seed";
        written(folder, row, {{"m", q}});
        Json config = read_json(folder / "config.json");
        config[kSizeN] = q.N;
        config[kSizeK] = q.K;
        seeds.push_back(input_of(
            {config.dump(), input_of_safetensors(read_file(folder / "model.safetensors"))}));
      }
    }
  }
  return seeds;
}

constexpr FuzzTarget layer_target(std::string_view name, std::string_view reads,
                                  std::vector<std::string> (*seeds)()) {
  return {.name = name, .reads = reads, .run = run_layer, .seeds = seeds};
}

}  // namespace

const FuzzTarget kCompressedTensorsTarget =
    layer_target("compressed-tensors", "a layer of compressed-tensors, every member",
                 [] { return seeds_of({"compressed-tensors"}); });
const FuzzTarget kGptqTarget =
    layer_target("gptq", "a layer of gptq", [] { return seeds_of({"gptq"}); });
const FuzzTarget kAwqTarget = layer_target("awq", "a layer of awq and its kin", [] {
  return seeds_of({"awq", "awq-gemv", "awq-gemv-fast", "tinychat"});
});
const FuzzTarget kBitsandbytesTarget = layer_target("bitsandbytes", "a layer of bitsandbytes",
                                                    [] { return seeds_of({"bitsandbytes"}); });
const FuzzTarget kFp8Target =
    layer_target("fp8", "a layer of fp8", [] { return seeds_of({"fp8"}); });
const FuzzTarget kModeloptTarget =
    layer_target("modelopt", "a layer of modelopt", [] { return seeds_of({"modelopt"}); });
const FuzzTarget kNibbleTarget =
    layer_target("nibble", "a layer of our own format", [] { return seeds_of({"nibble"}); });

}  // namespace nibble
