#include "calibration/dataset.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibration/gzip.h"
#include "calibration/token_ids.h"
#include "formats/json.h"
#include "src/model/tokenizer.h"
#include "src/model/utf8.h"
#include "src/tensor/error.h"

namespace nibble {

namespace {

std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) {
    throw Error(file.string(), "cannot be read", "is the file there and readable?");
  }
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

bool is_zipped(const std::filesystem::path& file) {
  return lower_case(file.extension().string()) == ".gz";
}

// In lower case, that of what a .gz holds.
std::string extension_inside(const std::filesystem::path& file) {
  return lower_case((is_zipped(file) ? file.stem() : file).extension().string());
}

// Collects documents of one file.
class DocumentReader {
 public:
  DocumentReader(const std::filesystem::path& file, const DatasetOptions& options)
      : file_(file.string()), options_(options) {}

  std::vector<std::string> plain(std::string text) {
    check_utf8(text);
    documents_.push_back(std::move(text));
    return take();
  }

  std::vector<std::string> json_lines(std::string_view text) {
    for (int64_t number = 1; !text.empty(); ++number) {
      const size_t end = std::min(text.find('\n'), text.size());
      const std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const std::string where = file_ + ": line " + std::to_string(number);
      add_object(parse_json(line, where), where);
    }
    return take();
  }

  // An array, one object over several lines, or, as C4 has it, an object a line.
  std::vector<std::string> json(std::string_view text) {
    const size_t start = text.find_first_not_of(" \t\r\n");
    const bool array = start != std::string_view::npos && text[start] == '[';
    if (!array && first_line_is_complete(text)) return json_lines(text);
    const Json root = parse_json(text, file_);
    if (!root.is_array()) {
      add_object(root, file_);
      return take();
    }
    size_t index = 0;
    for (const Json& entry : root) {
      const std::string where = file_ + ": element " + std::to_string(index++);
      if (entry.is_string()) {
        documents_.push_back(entry.get<std::string>());
      } else {
        add_object(entry, where);
      }
    }
    return take();
  }

 private:
  static bool first_line_is_complete(std::string_view text) {
    const size_t start = std::min(text.find_first_not_of(" \t\r\n"), text.size());
    std::string_view line = text.substr(start, text.find('\n', start) - start);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    return line.size() > 1 && line.back() == '}';
  }

  void check_utf8(std::string_view text) const {
    if (const auto bad = first_invalid_utf8(text)) {
      throw Error(file_, "byte " + std::to_string(*bad) + " is not valid UTF-8",
                  "convert the file to UTF-8");
    }
  }

  void add_object(const Json& object, const std::string& where) {
    if (!object.is_object()) {
      throw Error(where, std::string("expected an object, found ") + object.type_name());
    }
    const auto text = object.find(options_.text_key);
    if (text == object.end()) {
      if (object.contains("messages")) {
        throw Error(where, "chat messages are not supported yet", "give texts under one key");
      }
      throw Error(where, "key '" + options_.text_key + "' is missing" + keys_of(object),
                  "name another key with --text-key");
    }
    if (!text->is_string()) {
      throw Error(where, "key '" + options_.text_key + "' is no text but " + text->type_name());
    }
    documents_.push_back(text->get<std::string>());
  }

  static std::string keys_of(const Json& object) {
    constexpr size_t kShown = 8;
    std::string names;
    size_t count = 0;
    for (const auto& [key, value] : object.items()) {
      if (count++ == kShown) return ", found" + names + ", ...";
      names += (names.empty() ? " '" : ", '") + key + "'";
    }
    return names.empty() ? "" : ", found" + names;
  }

  std::vector<std::string> take() {
    const bool empty = std::all_of(documents_.begin(), documents_.end(),
                                   [](const std::string& text) { return text.empty(); });
    if (empty) throw Error(file_, "has no text");
    return std::move(documents_);
  }

  std::string file_;
  const DatasetOptions& options_;
  std::vector<std::string> documents_;
};

}  // namespace

bool dataset_is_ids(const std::filesystem::path& file) {
  const std::string extension = lower_case(file.extension().string());
  return extension == ".npy" || extension == ".bin";
}

void check_options(const std::filesystem::path& file, const DatasetOptions& options) {
  const std::string extension = extension_inside(file);
  if (options.text_key != DatasetOptions().text_key && extension != ".json" &&
      extension != ".jsonl") {
    throw Error(file.string(), "has no key '" + options.text_key + "': it is no JSON",
                "leave out --text-key");
  }
  if (options.ids_dtype != DatasetOptions().ids_dtype && extension != ".bin") {
    throw Error(file.string(), "is no .bin, whose type of ids is asked for",
                "leave out --ids-dtype");
  }
}

Dataset read_dataset(const std::filesystem::path& file, const DatasetOptions& options) {
  const bool zipped = is_zipped(file);
  const std::string extension = extension_inside(file);
  const bool text = extension == ".txt" || extension == ".raw";
  const bool json = extension == ".json" || extension == ".jsonl";
  const bool ids = dataset_is_ids(file);
  if (!text && !json && !ids) {
    throw Error(file.string(), "unknown kind of dataset",
                "known are .txt, .raw, .jsonl, .json, each also with .gz, .npy and .bin");
  }
  std::string bytes = read_bytes(file);
  if (zipped) bytes = gunzip(bytes, file);
  Dataset dataset;
  dataset.file = file;
  DocumentReader reader(file, options);
  if (extension == ".npy") {
    dataset.ids = ids_from_npy(bytes, file);
  } else if (extension == ".bin") {
    dataset.ids = ids_from_binary(bytes, options.ids_dtype, file);
  } else if (extension == ".jsonl") {
    dataset.documents = reader.json_lines(bytes);
  } else if (extension == ".json") {
    dataset.documents = reader.json(bytes);
  } else {
    dataset.documents = reader.plain(std::move(bytes));
  }
  return dataset;
}

std::vector<int32_t> token_stream(const Dataset& dataset, const Tokenizer* tokenizer,
                                  int64_t vocabulary_size) {
  std::vector<int32_t> ids = dataset.ids;
  if (!dataset.documents.empty()) {
    if (tokenizer == nullptr) {
      throw Error(dataset.file.string(), "is text, and the model has no tokenizer",
                  "give token ids as .npy or .bin");
    }
    std::string text = dataset.documents[0];
    for (size_t i = 1; i < dataset.documents.size(); ++i) text += "\n\n" + dataset.documents[i];
    ids = tokenizer->encode(text);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary_size) continue;
    throw Error(dataset.file.string(),
                "id " + std::to_string(ids[i]) + " at position " + std::to_string(i) +
                    " is outside the vocabulary of " + std::to_string(vocabulary_size),
                "were the ids made by another model's tokenizer?");
  }
  return ids;
}

}  // namespace nibble
