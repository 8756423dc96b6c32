#include "src/model/open_checkpoint.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ios>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/gguf/blocks.h"
#include "formats/gguf/config.h"
#include "formats/gguf/container.h"
#include "formats/gguf/names.h"
#include "formats/gguf/types.h"
#include "formats/json.h"
#include "formats/module_tensors.h"
#include "src/model/tokenizer_gguf.h"
#include "src/quantized/quantized_linear.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

namespace nibble {
namespace {

bool is_gguf(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  if (path.extension() == ".gguf") return true;
  std::ifstream stream(path, std::ios::binary);
  std::string magic(4, '\0');
  return stream.read(magic.data(), std::ssize(magic)) && magic == "GGUF";
}

// Turns tensors of a file into those of a checkpoint.
class Presentation {
 public:
  explicit Presentation(std::shared_ptr<const GgufFile> file)
      : file_(std::move(file)),
        config_(config_from_gguf(*file_)),
        row_(*architecture_of_gguf(file_->metadata().text("general.architecture"))) {}

  Checkpoint checkpoint() && {
    for (const GgufModule& module :
         gguf_modules(row_, config_[std::string(row_.keys.layers)].get<int64_t>())) {
      for (const char* part : {".weight", ".bias"}) add(module, part);
    }
    add_leftovers();
    return Checkpoint::made_of(file_->path(), std::move(config_), std::move(tensors_),
                               gguf_tokenizer_files(file_->metadata()));
  }

 private:
  std::string where(const GgufTensor& tensor) const {
    return tensor_place(file_->path().string(), tensor.name);
  }

  // Rows of a head of this module; 0 where they lie in order.
  int64_t head_rows(const GgufModule& module, const GgufTensor& tensor) const {
    if (module.rows == GgufModule::Rows::kInOrder) return 0;
    const bool query = module.rows == GgufModule::Rows::kQueryHeads;
    const auto heads =
        config_[query ? std::string(row_.keys.heads) : "num_key_value_heads"].get<int64_t>();
    if (heads < 1 || tensor.shape.front() % (2 * heads) != 0) {
      throw Error(where(tensor), std::to_string(tensor.shape.front()) + " rows for " +
                                     std::to_string(heads) + " heads");
    }
    return tensor.shape.front() / heads;
  }

  void add(const GgufModule& module, const std::string& part) {
    const GgufTensor* tensor = file_->find(module.name + part);
    if (tensor == nullptr) return;
    known_.insert(tensor->name);
    const std::string name = module.module + part;
    if (const auto dtype = tensor->type->dtype) {
      add_plain(module, *tensor, *dtype, name);
    } else if (!has_blocks(*tensor->type)) {
      throw Error(where(*tensor), "type " + std::string(tensor->type->name) + " is not implemented",
                  "q2_k to q8_0, iq4_nl, iq4_xs, mxfp4, f16, bf16 and f32 are");
    } else if (tensor->shape.size() != 2) {
      throw Error(where(*tensor), "shape " + to_string(tensor->shape) + ", expected a matrix");
    } else if (module.is_linear) {
      add_blocks(module, *tensor, name + "." + std::string(tensor->type->name));
    } else {
      add_dequantized(*tensor, name);
    }
  }

  void add_source(const GgufTensor& tensor, TensorInfo info, std::function<Tensor()> load) {
    tensors_.push_back({.stored = {.info = std::move(info), .file = file_->path()},
                        .load = std::move(load),
                        .release = [file = file_, &tensor] { file->release(tensor); }});
  }

  // The bytes as they are in the file.
  static Tensor mapped(const std::shared_ptr<const GgufFile>& file, const GgufTensor& tensor,
                       Dtype dtype, const Shape& shape) {
    return Tensor::borrow({dtype, shape, file->bytes(tensor), Device::kCpu}, file);
  }

  void add_plain(const GgufModule& module, const GgufTensor& tensor, Dtype dtype,
                 const std::string& name) {
    const int64_t rows = tensor.shape.empty() ? 0 : head_rows(module, tensor);
    const bool turned = module.transposed && tensor.shape.size() == 2;
    TensorInfo info = {name, dtype, tensor.shape};
    if (turned) std::swap(info.shape[0], info.shape[1]);
    add_source(tensor, std::move(info), [file = file_, &tensor, dtype, rows, turned] {
      const Tensor stored = mapped(file, tensor, dtype, tensor.shape);
      if (turned) return transposed(stored);
      return rows == 0 ? stored : in_our_order(stored, rows);
    });
  }

  void add_blocks(const GgufModule& module, const GgufTensor& tensor, const std::string& name) {
    const int64_t N = tensor.shape[0];
    const Shape shape = {N, tensor.bytes / N};
    const int64_t rows = head_rows(module, tensor);
    add_source(tensor, {name, Dtype::kU8, shape}, [file = file_, &tensor, shape, rows] {
      const Tensor stored = mapped(file, tensor, Dtype::kU8, shape);
      return rows == 0 ? stored : in_our_order(stored, rows);
    });
  }

  void add_dequantized(const GgufTensor& tensor, const std::string& name) {
    struct Once {
      std::once_flag flag;
      Tensor tensor;
    };
    add_source(tensor, {name, Dtype::kF32, tensor.shape},
               [file = file_, &tensor, place = where(tensor), once = std::make_shared<Once>()] {
                 std::call_once(once->flag, [&] {
                   const QuantizedLinear q = decode_blocks(*tensor.type, file->bytes(tensor),
                                                           tensor.shape[0], tensor.shape[1], place);
                   once->tensor = Tensor::allocate(Dtype::kF32, tensor.shape);
                   dequantize_rows(q, float_parameters(q), 0,
                                   MatrixMap(once->tensor.mutable_values<float>().data(),
                                             tensor.shape[0], tensor.shape[1]));
                 });
                 return once->tensor;
               });
  }

  // Rows of all heads from the order of the file into ours; rows: of one head.
  static Tensor in_our_order(const Tensor& stored, int64_t rows) {
    Tensor result = Tensor::allocate(stored.dtype(), stored.shape());
    const std::span<std::byte> out = result.mutable_bytes();
    const int64_t N = stored.shape().front();
    const auto row_bytes = stored.bytes().size() / static_cast<size_t>(N);
    for (int64_t n = 0; n < N; ++n) {
      const auto from = static_cast<size_t>(gguf_row(n, rows)) * row_bytes;
      std::ranges::copy(
          stored.bytes().subspan(from, row_bytes),
          out.begin() + static_cast<std::ptrdiff_t>(n) * static_cast<std::ptrdiff_t>(row_bytes));
    }
    return result;
  }

  // Under their own names, for whoever reads the layout to refuse; but for what is read elsewhere.
  void add_leftovers() {
    for (const GgufTensor& tensor : file_->tensors()) {
      if (known_.contains(tensor.name) || tensor.name == kRopeFactors) continue;
      const Dtype dtype = tensor.type->dtype.value_or(Dtype::kU8);
      const Shape shape = tensor.type->dtype ? tensor.shape : Shape{tensor.bytes};
      add_source(tensor, {tensor.name, dtype, shape}, [file = file_, &tensor, dtype, shape] {
        return mapped(file, tensor, dtype, shape);
      });
    }
  }

  std::shared_ptr<const GgufFile> file_;
  Json config_;
  const Architecture& row_;
  std::vector<TensorSource> tensors_;
  std::set<std::string> known_;
};

}  // namespace

Checkpoint open_checkpoint(const std::filesystem::path& path) {
  if (!is_gguf(path)) return Checkpoint::open(path);
  return Presentation(GgufFile::open(path)).checkpoint();
}

}  // namespace nibble
