// Datasets by their extensions. Damaged .txt and .bin have nothing to trip over.
#include <zlib.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "calibration/dataset.h"
#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/target_rows.h"

namespace nibble {
namespace {

void run_dataset(const std::string& extension, std::string_view input) {
  read_dataset(scratch("dataset" + extension, input), {});
}

std::string npy(const std::string& header, const std::string& data) {
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes.push_back(static_cast<char>(header.size()));
  bytes.push_back('\0');
  return bytes + header + data;
}

std::vector<std::string> npy_seeds() {
  std::vector<std::string> seeds = stored_files({"data/tiny"}, ".npy");
  seeds.push_back(
      npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }", std::string(16, '\1')));
  seeds.push_back(
      npy("{'descr': '>u2', 'fortran_order': False, 'shape': (3,), }", std::string(6, '\1')));
  return seeds;
}

const std::string kLines = "{\"text\": \"a b\"}\n\n{\"text\": \"c\", \"meta\": [1, 2.5, null]}\r\n";

std::vector<std::string> json_lines_seeds() {
  return {kLines, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n"};
}

std::vector<std::string> json_seeds() {
  return {kLines, "[{\"text\": \"a\"}, {\"text\": \"b\"}]", "[\"a\", \"b\"]",
          "{\n  \"text\": \"a\"\n}\n"};
}

std::string gzipped(const std::string& text) {
  std::string bytes(compressBound(static_cast<uLong>(text.size())) + 32, '\0');
  z_stream stream{};
  const int made = deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  if (made != Z_OK) throw std::runtime_error("no zlib");
  std::string input = text;
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
  stream.avail_out = static_cast<uInt>(bytes.size());
  deflate(&stream, Z_FINISH);
  bytes.resize(stream.total_out);
  deflateEnd(&stream);
  return bytes;
}

std::vector<std::string> gzip_seeds() {
  return {gzipped(kLines), gzipped(kLines) + gzipped(kLines), gzipped("")};
}

}  // namespace

const FuzzTarget kNpyTarget = {.name = "npy",
                               .reads = "token ids as .npy",
                               .run = [](std::string_view input) { run_dataset(".npy", input); },
                               .seeds = npy_seeds};
const FuzzTarget kJsonLinesTarget = {
    .name = "jsonl",
    .reads = "a dataset as .jsonl",
    .run = [](std::string_view input) { run_dataset(".jsonl", input); },
    .seeds = json_lines_seeds};
const FuzzTarget kJsonTarget = {.name = "json",
                                .reads = "a dataset as .json",
                                .run = [](std::string_view input) { run_dataset(".json", input); },
                                .seeds = json_seeds};
const FuzzTarget kGzipTarget = {
    .name = "gzip",
    .reads = "a dataset as .jsonl.gz",
    .run = [](std::string_view input) { run_dataset(".jsonl.gz", input); },
    .seeds = gzip_seeds};

}  // namespace nibble
