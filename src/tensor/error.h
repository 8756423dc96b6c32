// The one exception type. A message says where, what was found and expected, and what to try, in
// one line: "model.safetensors: tensor 'h.0.attn.weight': 4 MB declared, 12 bytes left (incomplete
// download?)". Libraries throw; only src/cli catches and prints.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace nibble {

class Error : public std::runtime_error {
 public:
  // where: file, tensor or module, outermost first, parts joined by ": "; may be empty.
  // problem: what was found and what was expected. hint: likely cause or what to try; may be empty.
  Error(std::string where, std::string problem, std::string hint = {});

  const std::string& where() const { return where_; }
  const std::string& problem() const { return problem_; }
  const std::string& hint() const { return hint_; }

 private:
  std::string where_;
  std::string problem_;
  std::string hint_;
};

// "FILE: tensor 'NAME'", the place of an Error.
std::string tensor_place(const std::string& file, const std::string& tensor);

// What to try where a file is shorter than it should be.
inline constexpr const char* kIncompleteDownload = "incomplete download?";

// ", did you mean 'x'?" material: the name in `known` nearest to `name` by edit distance, or empty
// if none is near.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

}  // namespace nibble
