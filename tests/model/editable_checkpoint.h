// A tiny checkpoint of tests/data/tiny in memory, to be changed and written to a folder.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"
#include "formats/json.h"
#include "src/tensor/tensor.h"
#include "tests/test_data.h"

namespace nibble {

class EditableCheckpoint {
 public:
  explicit EditableCheckpoint(const std::string& name) {
    const Checkpoint source = Checkpoint::open(own_test_data() / "tiny" / name);
    config = source.config();
    for (const auto& [tensor, stored] : source.tensors()) tensors[tensor] = source.tensor(tensor);
  }

  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    node.key() = to;
    tensors.insert(std::move(node));
  }

  Checkpoint write() {
    folders_ += "x";
    const std::filesystem::path folder = folder_.path() / folders_;
    CheckpointWriter writer(folder, {});
    for (const auto& [name, tensor] : tensors)
      writer.declare({name, tensor.dtype(), tensor.shape()});
    writer.plan();
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes());
    writer.write_json("config.json", config);
    writer.finish();
    return Checkpoint::open(folder);
  }

  Json config;
  std::map<std::string, Tensor> tensors;

 private:
  TemporaryFolder folder_;
  std::string folders_;
};

}  // namespace nibble
