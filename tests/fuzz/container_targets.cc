// Files that hold tensors: safetensors, an index over several of them, GGUF and its blocks.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/blocks.h"
#include "formats/gguf/container.h"
#include "formats/gguf/metadata.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "src/model/layout.h"
#include "src/model/open_checkpoint.h"
#include "src/model/tokenizer.h"
#include "src/quantized/ggml_schemes.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/error.h"
#include "src/tensor/tensor.h"
#include "tests/formats/layers.h"
#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"

namespace nibble {
namespace {

// Reads every byte, so that a mapping that ends too early is noticed.
void touch(std::span<const std::byte> bytes) {
  std::byte sum{};
  for (const std::byte byte : bytes) sum ^= byte;
  volatile std::byte kept = sum;
  static_cast<void>(kept);
}

// ---- safetensors --------------------------------------------------------------------------------

void run_safetensors(std::string_view input) {
  const auto file = SafetensorsFile::open(scratch("file.safetensors", input));
  for (const SafetensorsEntry& entry : file->header().entries) touch(file->bytes(entry));
}

std::vector<std::string> safetensors_seeds() {
  std::vector<std::string> seeds = stored_files({"golden/hostile"}, ".safetensors", 4096);
  seeds.push_back(tiny_safetensors());
  return seeds;
}

// ---- shards and their index ---------------------------------------------------------------------

void run_index(std::string_view input) {
  const auto files = files_of(input, 4);
  scratch("index/config.json", files[0]);
  scratch("index/model.safetensors.index.json", files[1]);
  scratch("index/a.safetensors", safetensors_of(files[2], "a"));
  scratch("index/b.safetensors", safetensors_of(files[3], "b"));
  Findings findings;
  const auto folder = scratch_folder() / "index";
  const Checkpoint all = Checkpoint::open(folder, &findings);
  const Checkpoint sound = Checkpoint::open(folder);
  if (!findings.empty()) throw std::logic_error("findings, but it opens");
  for (const auto& [name, stored] : sound.tensors()) touch(sound.tensor(name).bytes());
}

std::vector<std::string> index_seeds() {
  const auto entry = [](int64_t bytes) {
    return Json{{"dtype", "F16"}, {"shape", {bytes / 2}}, {"data_offsets", {0, bytes}}};
  };
  const Json index = {{"metadata", {{"total_size", 96}}},
                      {"weight_map", {{"x", "a.safetensors"}, {"y", "b.safetensors"}}}};
  const Json first = {{"__metadata__", {{"format", "pt"}}}, {"x", entry(32)}};
  const Json second = {{"y", entry(64)}};
  const Json quantized = {{"model_type", "llama"},
                          {"quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}}};
  return {input_of({"{}", index.dump(), first.dump(), second.dump()}),
          input_of({quantized.dump(), index.dump(), first.dump(), second.dump()})};
}

// ---- GGUF ---------------------------------------------------------------------------------------

void run_gguf(std::string_view input) {
  const auto path = scratch("model.gguf", input);
  const auto file = GgufFile::open(path);
  for (const GgufTensor& tensor : file->tensors()) touch(file->bytes(tensor));
  try {
    const Tokenizer tokenizer = Tokenizer::open(path);
    tokenizer.decode(tokenizer.encode("a b ab <s>"));
  } catch (const Error& error) {
    if (error.where().empty()) throw;
  }
  const Checkpoint checkpoint = open_checkpoint(path);
  Findings findings;
  read_layout(checkpoint, &findings);
  const ModelLayout layout = read_layout(checkpoint);
  for (const LinearModule& module : layout.linears) load_weight(checkpoint, layout, module);
}

GgufMetadata tiny_metadata(bool sentencepiece) {
  GgufMetadata metadata("seed");
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("general.name", std::string("tiny"));
  const auto number = [&](const char* key, uint32_t value) {
    metadata.set(std::string("llama.") + key, value);
  };
  number("block_count", 1);
  number("context_length", 64);
  number("embedding_length", 32);
  number("feed_forward_length", 64);
  number("attention.head_count", 2);
  number("attention.head_count_kv", 1);
  number("rope.dimension_count", 16);
  metadata.set("llama.rope.freq_base", 10000.F);
  metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581", "\u2581a"};
  std::vector<int32_t> types = {2, 3, 3, 1, 1, 1, 1, 1};
  std::vector<float> scores(tokens.size());
  for (size_t i = 0; tokens.size() < 32; ++i) {
    tokens.push_back("t" + std::to_string(i));
    types.push_back(i == 5 ? 4 : 1);
    scores.push_back(-static_cast<float>(i));
  }
  scores.resize(tokens.size());
  metadata.set("tokenizer.ggml.model", std::string(sentencepiece ? "llama" : "gpt2"));
  if (sentencepiece) {
    metadata.set("tokenizer.ggml.scores", scores);
  } else {
    metadata.set("tokenizer.ggml.pre", std::string("gpt-2"));
    metadata.set("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  }
  metadata.set("tokenizer.ggml.tokens", tokens);
  metadata.set("tokenizer.ggml.token_type", types);
  metadata.set("tokenizer.ggml.bos_token_id", uint32_t{1});
  metadata.set("tokenizer.ggml.eos_token_id", uint32_t{2});
  metadata.set("tokenizer.ggml.unknown_token_id", uint32_t{0});
  metadata.set("tokenizer.ggml.add_bos_token", true);
  return metadata;
}

std::string tiny_gguf(bool sentencepiece, const char* type) {
  GgufHeader header{.metadata = tiny_metadata(sentencepiece), .tensors = {}};
  const auto add = [&](const char* name, const char* stored, Shape shape) {
    header.tensors.push_back({.name = name, .type = gguf_type(stored), .shape = std::move(shape)});
  };
  add("token_embd.weight", type, {32, 32});
  add("blk.0.attn_norm.weight", "f32", {32});
  add("blk.0.ffn_norm.weight", "f32", {32});
  add("blk.0.attn_q.weight", type, {32, 32});
  add("blk.0.attn_k.weight", type, {16, 32});
  add("blk.0.attn_v.weight", type, {16, 32});
  add("blk.0.attn_output.weight", type, {32, 32});
  add("blk.0.ffn_gate.weight", type, {64, 32});
  add("blk.0.ffn_up.weight", type, {64, 32});
  add("blk.0.ffn_down.weight", type, {32, 64});
  add("output_norm.weight", "f32", {32});
  add("output.weight", "f16", {32, 32});
  std::string bytes = gguf_header_bytes(header, "seed");
  const GgufTensor& last = header.tensors.back();
  bytes.resize(bytes.size() + static_cast<size_t>(last.offset + last.bytes));
  return bytes;
}

std::vector<std::string> gguf_seeds() {
  return {tiny_gguf(true, "q4_0"), tiny_gguf(false, "q8_0"), tiny_gguf(false, "f32")};
}

// ---- blocks of GGUF -----------------------------------------------------------------------------

// The type, N and the blocks of a row, then their bytes. What is decoded is encoded again to the
// same bytes.
void run_gguf_blocks(std::string_view input) {
  if (input.size() < 3) return;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(input[i]); };
  const GgmlScheme& row = ggml_schemes()[byte(0) % ggml_schemes().size()];
  const GgufType& type = *gguf_type(row.name);
  const int64_t N = byte(1) % 8;
  const int64_t K = row.block * (byte(2) % 8);
  const auto bytes = std::as_bytes(std::span(input.substr(3)));
  const QuantizedLinear q = decode_blocks(type, bytes, N, K, "blocks");
  dequantize(q);
  const Tensor again = encode_blocks(type, q, "blocks");
  if (!std::ranges::equal(again.bytes(), bytes)) {
    throw std::logic_error(std::string(row.name) + ": encoded to other bytes");
  }
}

std::vector<std::string> gguf_blocks_seeds() {
  std::vector<std::string> seeds;
  for (size_t i = 0; i < ggml_schemes().size(); ++i) {
    const GgmlScheme& row = ggml_schemes()[i];
    const QuantizedLinear q = random_layer(row.scheme, 2, 2 * row.block, 1);
    const Tensor blocks = encode_blocks(*gguf_type(row.name), q, "seed");
    std::string seed = {static_cast<char>(i), 2, 2};
    seed.append(reinterpret_cast<const char*>(blocks.bytes().data()), blocks.bytes().size());
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

}  // namespace

const FuzzTarget kSafetensorsTarget = {.name = "safetensors",
                                       .reads = "a safetensors file",
                                       .run = run_safetensors,
                                       .seeds = safetensors_seeds};
const FuzzTarget kIndexTarget = {.name = "index",
                                 .reads = "config.json, index and two shards",
                                 .run = run_index,
                                 .seeds = index_seeds};
const FuzzTarget kGgufTarget = {.name = "gguf",
                                .reads = "a GGUF file, its tokenizer and its model",
                                .run = run_gguf,
                                .seeds = gguf_seeds};
const FuzzTarget kGgufBlocksTarget = {.name = "gguf-blocks",
                                      .reads = "blocks of every GGUF type",
                                      .run = run_gguf_blocks,
                                      .seeds = gguf_blocks_seeds};

}  // namespace nibble
