// Row-major [M, K] is column-major [K, M]: y' [N, M] = W [N, K] x' [K, M] in cuBLAS's order, so
// that both operands are read along K and the bias, which it adds along the rows of y', is that of
// N.
#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/shared_library.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"

namespace nibble {
namespace {

constexpr std::array<const char*, 2> kNames = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr const char* kHint =
    "products of many tokens on the GPU need cuBLAS: install it (libcublas of CUDA 12 or 13) and "
    "put its folder into LD_LIBRARY_PATH";
// What NVIDIA recommends for Hopper; older chips need less.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kMostAlgorithms = 8;
constexpr int64_t kBestAlignment = 256;  // cuBLAS asks for no more

struct Library {
  SharedLibrary file{kNames, kHint};
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_product = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_product = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_product = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmul) multiply = nullptr;

  Library() {
    file.find(status_string, "cublasLtGetStatusString");
    file.find(create, "cublasLtCreate");
    file.find(destroy, "cublasLtDestroy");
    file.find(create_product, "cublasLtMatmulDescCreate");
    file.find(destroy_product, "cublasLtMatmulDescDestroy");
    file.find(set_product, "cublasLtMatmulDescSetAttribute");
    file.find(create_layout, "cublasLtMatrixLayoutCreate");
    file.find(destroy_layout, "cublasLtMatrixLayoutDestroy");
    file.find(create_preference, "cublasLtMatmulPreferenceCreate");
    file.find(destroy_preference, "cublasLtMatmulPreferenceDestroy");
    file.find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
    file.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    file.find(multiply, "cublasLtMatmul");
  }

  void check(cublasStatus_t status, const std::string& what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw Error(file.name(), what + ": " + status_string(status));
  }
};

struct Types {
  cudaDataType_t input;
  cudaDataType_t output;
  cudaDataType_t factor;
  cublasComputeType_t sums;
};

Types types_of(Dtype type) {
  switch (type) {
    case Dtype::kF16:
      return {CUDA_R_16F, CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case Dtype::kBF16:
      return {CUDA_R_16BF, CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case Dtype::kI8:
      return {CUDA_R_8I, CUDA_R_32I, CUDA_R_32I, CUBLAS_COMPUTE_32I};
    default:
      throw Error("", "a dense product of " + std::string(dtype_name(type)) + " on the GPU",
                  "F16, BF16 and I8 can be");
  }
}

// Largest power of two that the address is a multiple of, up to what counts.
int64_t alignment_of(const void* address) {
  const auto value = reinterpret_cast<uintptr_t>(address);
  return value == 0 ? kBestAlignment
                    : std::min(kBestAlignment, static_cast<int64_t>(value & (~value + 1)));
}

// One of cuBLAS's descriptions, with what destroys it.
template <typename Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, cublasStatus_t (*)(Handle)>;

// Everything about a kind of product but its addresses.
struct Recipe {
  Owned<cublasLtMatmulDesc_t> product;
  Owned<cublasLtMatrixLayout_t> w, x, y;
  std::vector<cublasLtMatmulAlgo_t> algorithms;
};

// What algorithms depend on.
using Key = std::array<int64_t, 12>;

Key key_of(const CublasProduct& p) {
  return {static_cast<int64_t>(p.type),
          p.M,
          p.N,
          p.K,
          p.x_stride,
          p.w_stride,
          p.y_stride,
          p.bias == nullptr ? 0 : 1,
          alignment_of(p.x),
          alignment_of(p.w),
          alignment_of(p.y),
          alignment_of(p.bias)};
}

}  // namespace

struct Cublas::State {
  Library library;
  Owned<cublasLtHandle_t> handle{nullptr, nullptr};
  DeviceArray workspace;
  std::map<Key, Recipe> recipes;

  State() {
    cublasLtHandle_t created = nullptr;
    library.check(library.create(&created), "starting");
    handle = {created, library.destroy};
    workspace = DeviceArray(kWorkspaceBytes);
  }

  Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, int64_t rows, int64_t columns,
                                       int64_t stride) const {
    cublasLtMatrixLayout_t created = nullptr;
    library.check(library.create_layout(&created, type, static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(columns), stride),
                  "describing a matrix");
    return {created, library.destroy_layout};
  }

  template <typename Value>
  void set(const Recipe& recipe, cublasLtMatmulDescAttributes_t attribute, Value value) const {
    library.check(library.set_product(recipe.product.get(), attribute,
                                      static_cast<const void*>(&value), sizeof value),
                  "describing a product");
  }

  Recipe describe(const CublasProduct& p) const {
    const Types types = types_of(p.type);
    cublasLtMatmulDesc_t created = nullptr;
    library.check(library.create_product(&created, types.sums, types.factor),
                  "describing a product");
    Recipe recipe{{created, library.destroy_product},
                  layout(types.input, p.K, p.N, p.w_stride),
                  layout(types.input, p.K, p.M, p.x_stride),
                  layout(types.output, p.N, p.M, p.y_stride),
                  {}};
    set(recipe, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(recipe, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (p.bias != nullptr) {
      set(recipe, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(recipe, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    return recipe;
  }

  void propose(const CublasProduct& p, Recipe& recipe) const {
    cublasLtMatmulPreference_t created = nullptr;
    library.check(library.create_preference(&created), "asking for algorithms");
    const Owned<cublasLtMatmulPreference_t> preference{created, library.destroy_preference};
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      library.check(library.set_preference(preference.get(), attribute, &value, sizeof value),
                    "asking for algorithms");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(alignment_of(p.w)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(alignment_of(p.x)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(alignment_of(p.y)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(alignment_of(p.y)));
    std::array<cublasLtMatmulHeuristicResult_t, kMostAlgorithms> results{};
    int count = 0;
    library.check(library.heuristic(handle.get(), recipe.product.get(), recipe.w.get(),
                                    recipe.x.get(), recipe.y.get(), recipe.y.get(),
                                    preference.get(), kMostAlgorithms, results.data(), &count),
                  "asking for algorithms for " + std::to_string(p.M) + " x " + std::to_string(p.N) +
                      " x " + std::to_string(p.K));
    for (int i = 0; i < count; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) recipe.algorithms.push_back(results[i].algo);
    }
    if (recipe.algorithms.empty()) {
      throw Error(library.file.name(), "no algorithm for " + std::to_string(p.M) + " x " +
                                           std::to_string(p.N) + " x " + std::to_string(p.K));
    }
  }

  Recipe& recipe(const CublasProduct& p) {
    const Key key = key_of(p);
    if (const auto found = recipes.find(key); found != recipes.end()) return found->second;
    Recipe made = describe(p);
    propose(p, made);
    return recipes.emplace(key, std::move(made)).first->second;
  }
};

Cublas::Cublas() : state_(std::make_unique<State>()) {}
Cublas::Cublas(Cublas&&) noexcept = default;
Cublas& Cublas::operator=(Cublas&&) noexcept = default;
Cublas::~Cublas() = default;

int Cublas::algorithms(const CublasProduct& product) {
  return static_cast<int>(state_->recipe(product).algorithms.size());
}

void Cublas::multiply(const CublasProduct& p, void* stream, int algorithm) {
  State& s = *state_;
  Recipe& recipe = s.recipe(p);
  if (p.bias != nullptr) s.set(recipe, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  const float one = 1.F, zero = 0.F;
  const int32_t integer_one = 1, integer_zero = 0;
  const bool integers = p.type == Dtype::kI8;
  const void* factor = integers ? static_cast<const void*>(&integer_one) : &one;
  const void* old = integers ? static_cast<const void*>(&integer_zero) : &zero;
  s.library.check(
      s.library.multiply(s.handle.get(), recipe.product.get(), factor, p.w, recipe.w.get(), p.x,
                         recipe.x.get(), old, p.y, recipe.y.get(), p.y, recipe.y.get(),
                         &recipe.algorithms.at(static_cast<size_t>(algorithm)), s.workspace.data(),
                         kWorkspaceBytes, static_cast<cudaStream_t>(stream)),
      "a product of " + std::to_string(p.M) + " x " + std::to_string(p.N) + " x " +
          std::to_string(p.K));
}

}  // namespace nibble
