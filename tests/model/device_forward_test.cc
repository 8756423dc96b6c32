// The forward pass on a device, by the block executor, against the CPU's: hidden states and losses.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/format.h"
#include "kernels/cuda/device.h"
#include "kernels/divergence.h"
#include "kernels/hessian.h"
#include "src/architecture/architecture.h"
#include "src/model/device_inputs.h"
#include "src/model/device_scores.h"
#include "src/model/device_session.h"
#include "src/model/device_weights.h"
#include "src/model/layout.h"
#include "src/model/model.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/range_rule.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"
#include "tests/kernels/cuda/executor_device.h"
#include "tests/model/editable_checkpoint.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 30;

// GPT-2 with heads of 16 columns: those of tests/data have 12, which the GPU does not take.
std::shared_ptr<const Checkpoint> wider_gpt2(EditableCheckpoint& edit) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.F, 0.2F);
  edit.config["n_embd"] = 64;
  const int64_t vocabulary = edit.config["vocab_size"];
  for (auto& [name, tensor] : edit.tensors) {
    Shape shape = tensor.shape();
    for (int64_t& size : shape) {
      if (size % 48 == 0 && size != vocabulary) size = size / 48 * 64;
    }
    const bool is_norm = name.find("ln_") != std::string::npos && name.ends_with("weight");
    std::vector<float> values(static_cast<size_t>(element_count(shape)));
    for (float& value : values) value = normal(random) + (is_norm ? 1.F : 0.F);
    tensor = Tensor::copy_of<float>(Dtype::kF32, shape, values);
  }
  return std::make_shared<const Checkpoint>(edit.write());
}

std::shared_ptr<const Model> tiny(const std::string& name) {
  return std::make_shared<const Model>(
      std::make_shared<const Checkpoint>(Checkpoint::open(own_test_data() / "tiny" / name)));
}

// The linear layers of a tiny Llama's blocks rounded to `scheme`.
std::shared_ptr<const Checkpoint> quantized(EditableCheckpoint& edit, const Scheme& scheme,
                                            const Format& format) {
  const auto model = tiny("llama");
  std::vector<FormatModule> modules;
  for (const LinearModule& linear : model->layout().linears) {
    FormatModule module;
    module.name = linear.name;
    module.N = linear.N;
    module.K = linear.K;
    if (linear.block >= 0) {
      module.scheme = scheme;
      const Matrix weights = load_weight(model->checkpoint(), model->layout(), linear);
      const QuantizedLinear q =
          quantize_to_nearest(weights, scheme, range_rules().front(), {}, linear.name).q;
      edit.tensors.erase(linear.weight);
      for (const NamedTensor& part : format.encode(module, q)) {
        edit.tensors[part.name] = part.tensor;
      }
    }
    modules.push_back(module);
  }
  edit.config["quantization_config"] = format.config(modules);
  return std::make_shared<const Checkpoint>(edit.write());
}

std::vector<int32_t> some_ids(int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((i * i * 7 + 3 * i) % 288);
  return ids;
}

std::vector<int32_t> next_ids(const std::vector<int32_t>& ids, int64_t window) {
  std::vector<int32_t> targets(ids.size(), -1);
  for (size_t t = 0; t + 1 < ids.size(); ++t) {
    if ((t + 1) % static_cast<size_t>(window) != 0) targets[t] = ids[t + 1];
  }
  return targets;
}

Matrix run_on_cpu(const Model& model, const std::vector<int32_t>& ids, const Batch& batch) {
  Matrix x = model.embed(ids, batch);
  for (int64_t i = 0; i < model.config().layers; ++i) {
    model.forward(model.load_block(i), batch, x);
  }
  return x;
}

double relative_error(const std::vector<float>& got, const Matrix& expected) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{got[static_cast<size_t>(i)]} - expected.data()[i], 2);
    size += std::pow(double{expected.data()[i]}, 2);
  }
  return std::sqrt(error / size);
}

// Of the stream and of logits, relative to their size: each block rounds a dozen things on the way
// to 16 bits, independently of each other.
template <typename T>
double allowed(const Model& model) {
  const double half_ulp = std::is_same_v<T, F16> ? 0x1p-11 : 0x1p-8;
  return std::sqrt(12. * static_cast<double>(model.config().layers)) * half_ulp;
}

double root_mean_square(const Matrix& x) {
  return x.norm() / std::sqrt(static_cast<double>(x.size()));
}

constexpr Batch kBatch{.windows = 2, .window = 33};

// error: of the stream, relative.
template <typename T>
void check(const Model& model, double error) {
  const std::vector<int32_t> ids = some_ids(kBatch.windows * kBatch.window);
  const std::vector<int32_t> targets = next_ids(ids, kBatch.window);
  const Matrix expected = run_on_cpu(model, ids, kBatch);
  const Model::Head head = model.load_head();
  const std::vector<double> losses = model.cross_entropy(head, expected, targets);
  ExecutorDevice device(kPlenty);
  DeviceScores<ExecutorDevice, T> scores(device, model, nullptr, kBatch.windows * kBatch.window, 0);
  const std::vector<TokenDivergence> tokens = scores.score(ids, kBatch, targets);
  const double got = relative_error(scores.read_stream(), expected);
  EXPECT_LE(got, error);
  EXPECT_GT(got, 0);
  size_t scored = 0;
  double difference = 0;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] >= 0) difference += tokens.at(scored++).nll - losses[t];
  }
  ASSERT_EQ(scored, tokens.size());
  // A loss is off by about two logits' errors, and those of many tokens cancel: three deviations.
  const auto n = static_cast<double>(scored);
  const double logits = root_mean_square(model.logits(head, expected));
  EXPECT_LE(std::abs(difference) / n, 3 * error * logits * std::sqrt(2 / n));
}

template <typename T>
void check(const Model& model) {
  SCOPED_TRACE(model.checkpoint().folder());
  check<T>(model, allowed<T>(model));
}

TEST(DeviceForward, AgreesWithTheCpu) {
  for (const char* name : {"llama", "llama-biases", "llama-linear-rope", "llama-llama3-rope",
                           "llama-tied", "mistral", "qwen2", "qwen3"}) {
    SCOPED_TRACE(name);
    check<F16>(*tiny(name));
  }
  check<BF16>(*tiny("llama-llama3-rope"));
  EditableCheckpoint gpt2("gpt2");
  const Model model(wider_gpt2(gpt2));
  check<F16>(model);
  check<BF16>(model);
}

// Through the packed kernels, and multiplied out.
TEST(DeviceForward, QuantizedWeightsAgreeWithTheCpu) {
  EditableCheckpoint packed("llama"), expanded("llama");
  const Format& compressed = format("compressed-tensors");
  check<F16>(Model(quantized(packed, integer_scheme(4, 32, false, Dtype::kF16), compressed)));
  check<F16>(Model(quantized(expanded, integer_scheme(4, 16, true, Dtype::kF16), compressed)));
}

// A value that is rounded to 8 bits, and the CPU's on the other side of a tie, differ by a whole
// step: the difference stays below what 8-bit activations make altogether.
TEST(DeviceForward, QuantizedActivationsAgreeWithTheCpu) {
  EditableCheckpoint weights_only("llama"), integers("llama");
  Scheme scheme = integer_scheme(8, kAll, true, Dtype::kF16);
  const Format& compressed = format("compressed-tensors");
  const Model w8a16(quantized(weights_only, scheme, compressed));
  scheme.activations = ActivationScheme{};
  const Model w8a8(quantized(integers, scheme, compressed));
  const std::vector<int32_t> ids = some_ids(kBatch.windows * kBatch.window);
  const Matrix exact = run_on_cpu(w8a16, ids, kBatch);
  const double quantization = (run_on_cpu(w8a8, ids, kBatch) - exact).norm() / exact.norm();
  check<F16>(w8a8, quantization);
}

// A sequence that comes in parts, the last of them token by token: logits after each part.
template <typename T>
void check_session(const Model& model) {
  SCOPED_TRACE(model.checkpoint().folder());
  const std::vector<int32_t> ids = some_ids(74);
  const auto end = std::ssize(ids);
  ExecutorDevice device(kPlenty);
  DeviceSession<ExecutorDevice, T> session(device, model, end, 0);
  const Model::Head head = model.load_head();
  const Matrix stream = run_on_cpu(model, ids, {.windows = 1, .window = end});
  const Matrix expected = model.logits(head, stream);
  for (int64_t first = 0; first < end;) {
    const int64_t count = first == 0 ? 67 : first < 72 ? 5 : 1;
    const std::vector<float> got = session.append(
        std::span(ids).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    first += count;
    ASSERT_EQ(session.tokens(), first);
    EXPECT_LE(relative_error(got, expected.row(first - 1)), 2 * allowed<T>(model)) << first;
  }
  EXPECT_THROW(session.append(std::vector<int32_t>{-1}), Error);
}

TEST(DeviceSession, GoesOnWhereItsCacheEnds) {
  for (const char* name : {"llama-biases", "llama-llama3-rope", "mistral", "qwen3"}) {
    check_session<F16>(*tiny(name));
  }
  check_session<BF16>(*tiny("qwen2"));
  EditableCheckpoint gpt2("gpt2");
  check_session<F16>(Model(wider_gpt2(gpt2)));
}

TEST(DeviceSession, BlocksThatDoNotStayGiveTheSame) {
  const auto model = tiny("llama-biases");
  const std::vector<int32_t> ids = some_ids(20);
  ExecutorDevice large(kPlenty), small(kPlenty), probe(kPlenty);
  DeviceSession<ExecutorDevice, F16> expected(large, *model, 24, 0);
  const DeviceSession<ExecutorDevice, F16> started(probe, *model, 24, 0);
  const int64_t block = load_block_weights(*model, 0, Dtype::kF16).bytes();
  const int64_t least = kPlenty - probe.free_bytes() + 5 * block / 2;
  DeviceSession<ExecutorDevice, F16> streamed(small, *model, 24, least);
  for (int round = 0; round < 2; ++round) {
    const auto part = std::span(ids).subspan(10 * static_cast<size_t>(round), 10);
    EXPECT_EQ(streamed.append(part), expected.append(part));
  }
  EXPECT_EQ(streamed.resident_blocks(), 0);
  EXPECT_EQ(expected.resident_blocks(), model->config().layers);
}

// Windows 1 and 3 are summed apart.
template <typename T>
void check_inputs(const Model& model) {
  SCOPED_TRACE(model.checkpoint().folder());
  const Batch batch{.windows = 4, .window = 21};
  const KeptOut kept_out = {false, true, false, true};
  const std::vector<int32_t> ids = some_ids(batch.windows * batch.window);
  ExecutorDevice device(kPlenty);
  DeviceInputs<ExecutorDevice, T> inputs(device, model, batch, 0);
  Matrix x = model.embed(ids, batch);
  int64_t blocks = 0;
  inputs.run(ids, kept_out, [&](int64_t index, const std::vector<GroupSums>& groups) {
    EXPECT_EQ(index, blocks++);
    const Block block = model.load_block(index);
    ASSERT_EQ(groups.size(), 8U);
    size_t next = 0;
    model.observe(block, batch, x, InputGroup::kMlpDown,
                  [&](InputGroup group, ConstMatrixRef X, ConstMatrixRef, int64_t first) {
                    ASSERT_EQ(first, 0);
                    ASSERT_EQ(X.rows(), batch.windows * batch.window);
                    for (const bool apart : {false, true}) {
                      const GroupSums& got = groups.at(next++);
                      EXPECT_EQ(got.group, group);
                      EXPECT_EQ(got.kept_out, apart);
                      EXPECT_EQ(got.tokens, 2 * batch.window);
                      Matrix rows(got.tokens, X.cols());
                      for (int64_t i = 0; i < 2; ++i) {
                        rows.middleRows(i * batch.window, batch.window) =
                            X.middleRows((2 * i + (apart ? 1 : 0)) * batch.window, batch.window);
                      }
                      Matrix gram = got.gram;
                      mirror_upper(gram);
                      const Matrix expected = rows.transpose() * rows;
                      // Twice the error of a factor, which rounding made in blocks and operations.
                      const double error = 2 * allowed<T>(model);
                      EXPECT_LE((gram - expected).norm() / expected.norm(), error);
                      const Matrix sizes = rows.cwiseAbs();
                      for (int64_t k = 0; k < X.cols(); ++k) {
                        const auto at = static_cast<size_t>(k);
                        const double largest = sizes.maxCoeff();
                        EXPECT_NEAR(got.columns.largest[at], sizes.col(k).maxCoeff(),
                                    8 * error * largest);
                        EXPECT_NEAR(got.columns.absolute[at] / static_cast<double>(got.tokens),
                                    sizes.col(k).mean(), error * largest);
                      }
                    }
                  });
    model.forward(block, batch, x);
  });
  EXPECT_EQ(blocks, model.config().layers);
}

TEST(DeviceInputs, AreTheSumsOfTheCpu) {
  check_inputs<F16>(*tiny("llama-biases"));
  check_inputs<BF16>(*tiny("qwen3"));
  EditableCheckpoint gpt2("gpt2");
  check_inputs<F16>(Model(wider_gpt2(gpt2)));
}

TEST(DeviceInputs, NameWhatIsNotFinite) {
  EditableCheckpoint edit("llama-biases");
  std::vector<float> weights(64, 1.F);
  weights[5] = 1e30F;
  edit.tensors["model.layers.1.input_layernorm.weight"] =
      Tensor::copy_of<float>(Dtype::kF32, {64}, weights);
  const Model model(std::make_shared<const Checkpoint>(edit.write()));
  const Batch batch{.windows = 1, .window = 8};
  ExecutorDevice device(kPlenty);
  DeviceInputs<ExecutorDevice, F16> inputs(device, model, batch, 0);
  int64_t blocks = 0;
  try {
    inputs.run(some_ids(8), {false}, [&](int64_t, const std::vector<GroupSums>&) { ++blocks; });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "block 1");
    EXPECT_NE(error.problem().find("column 5 of 64"), std::string::npos) << error.what();
  }
  EXPECT_EQ(blocks, 1);
}

struct Scored {
  std::vector<TokenDivergence> tokens;
  int64_t resident_blocks = 0;
};

Scored score_on(ExecutorDevice& device, const Model& model, const Model* reference,
                int64_t max_bytes) {
  const Batch batch{.windows = 1, .window = 40};
  const std::vector<int32_t> ids = some_ids(batch.window);
  DeviceScores<ExecutorDevice, F16> scores(device, model, reference, batch.window, max_bytes);
  scores.score(ids, batch, next_ids(ids, batch.window));
  return {scores.score(ids, batch, next_ids(ids, batch.window)), scores.resident_blocks()};
}

TEST(DeviceForward, BlocksThatDoNotStayGiveTheSame) {
  const auto model = tiny("llama-biases");
  ExecutorDevice large(kPlenty);
  const Scored expected = score_on(large, *model, nullptr, 0);
  EXPECT_EQ(expected.resident_blocks, model->config().layers);
  // Two blocks and a half stay free.
  ExecutorDevice probe(kPlenty);
  const DeviceScores<ExecutorDevice, F16> scores(probe, *model, nullptr, 40, 0);
  const int64_t block = load_block_weights(*model, 0, Dtype::kF16).bytes();
  const int64_t least = kPlenty - probe.free_bytes() + 5 * block / 2;
  ExecutorDevice small(kPlenty);
  const Scored streamed = score_on(small, *model, nullptr, least);
  EXPECT_EQ(streamed.resident_blocks, 0);
  ASSERT_EQ(streamed.tokens.size(), expected.tokens.size());
  for (size_t i = 0; i < expected.tokens.size(); ++i) {
    EXPECT_EQ(streamed.tokens[i].nll, expected.tokens[i].nll);
  }
  ExecutorDevice smaller(kPlenty);
  EXPECT_THROW(score_on(smaller, *model, nullptr, least - 2 * block), Error);
}

TEST(DeviceForward, DivergesFromAReferenceAsOnTheCpu) {
  const auto model = tiny("llama-biases");
  EditableCheckpoint edit("llama-biases");
  edit.tensors["model.norm.weight"] = Tensor::copy_of<float>(
      Dtype::kF32, edit.tensors["model.norm.weight"].shape(), std::vector<float>(64, 1.5F));
  const Model reference(std::make_shared<const Checkpoint>(edit.write()));
  const Batch batch{.windows = 1, .window = 40};
  const std::vector<int32_t> ids = some_ids(batch.window);
  ExecutorDevice device(kPlenty);
  const Scored got = score_on(device, *model, &reference, 0);
  const Matrix q = model->logits(model->load_head(), run_on_cpu(*model, ids, batch));
  const Matrix p = reference.logits(reference.load_head(), run_on_cpu(reference, ids, batch));
  ASSERT_EQ(got.tokens.size(), static_cast<size_t>(batch.window - 1));
  for (int64_t t = 0; t + 1 < batch.window; ++t) {
    const auto size = static_cast<size_t>(q.cols());
    const TokenDivergence expected =
        divergence({q.row(t).data(), size}, {p.row(t).data(), size}, ids[t + 1]);
    const TokenDivergence& token = got.tokens[static_cast<size_t>(t)];
    // Logits are off by as much as the stream, relative to their size.
    const double error = allowed<F16>(*model) * (q.row(t).norm() + p.row(t).norm()) /
                         std::sqrt(static_cast<double>(q.cols())) * 4;  // deviations
    EXPECT_NEAR(token.nll, expected.nll, error);
    EXPECT_NEAR(token.reference_nll, expected.reference_nll, error);
    EXPECT_NEAR(token.kl, expected.kl, error);
  }
  ExecutorDevice again(kPlenty);
  for (const TokenDivergence& token : score_on(again, *model, model.get(), 0).tokens) {
    EXPECT_EQ(token.kl, 0);
    EXPECT_EQ(token.nll, token.reference_nll);
    EXPECT_TRUE(token.same_top);
  }
}

// What the GPU does not take is refused by name, before any of it is asked for.
TEST(DeviceForward, RefusesSizesThatNoKernelHas) {
  const auto model = tiny("gpt2");  // heads of 12 columns
  EXPECT_THROW(check_device_sizes(model->config(), "gpt2"), Error);
  EXPECT_NO_THROW(check_device_sizes(tiny("llama")->config(), "llama"));
}

}  // namespace
}  // namespace nibble
