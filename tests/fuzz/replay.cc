// The targets without libFuzzer.
//   fuzz_replay                      every target over its seeds, simple damages of them, and what
//                                    libFuzzer found once (tests/fuzz/found/TARGET)
//   fuzz_replay TARGET FILE...       one target over files, for example what tools/fuzz found
//   fuzz_replay --seeds TARGET FOLDER   writes the seeds there
//   fuzz_replay --list               names
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/inputs.h"
#include "tests/fuzz/target.h"
#include "tests/test_data.h"

namespace nibble {
namespace {

constexpr int kDamaged = 150;  // inputs of a target: a fraction of a second

const FuzzTarget& target_named(const std::string& name) {
  const FuzzTarget* target = fuzz_target(name);
  if (target == nullptr) throw std::invalid_argument("no target '" + name + "'; see --list");
  return *target;
}

// Cut off, a byte changed, or a piece repeated.
std::string damaged(std::string input, std::mt19937& random) {
  if (input.empty()) return input;
  const size_t place = random() % input.size();
  switch (random() % 3) {
    case 0:
      input.resize(place);
      break;
    case 1:
      input[place] = static_cast<char>(random());
      break;
    default:
      input.insert(place, input.substr(place, 1 + random() % 16));
  }
  return input;
}

// Where it fails, the input is kept.
void run_or_keep(const FuzzTarget& target, const std::string& input) {
  try {
    run_target(target, input);
  } catch (...) {
    const std::string file = "fuzz-" + std::string(target.name) + ".input";
    write_file(file, input);
    std::fprintf(stderr, "%s: fails on %s\n", std::string(target.name).c_str(), file.c_str());
    throw;
  }
}

void replay_seeds(const FuzzTarget& target) {
  const std::vector<std::string> seeds = target.seeds();
  if (seeds.empty()) throw std::logic_error(std::string(target.name) + " has no seeds");
  for (const std::string& seed : seeds) run_or_keep(target, seed);
  const std::string found = "fuzz/found/" + std::string(target.name);
  for (const std::string& input : stored_files({found}, "")) run_or_keep(target, input);
  std::mt19937 random(1);
  for (int i = 0; i < kDamaged; ++i) {
    run_or_keep(target, damaged(seeds[random() % seeds.size()], random));
  }
}

void write_seeds(const FuzzTarget& target, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  size_t number = 0;
  for (const std::string& seed : target.seeds()) {
    write_file(folder / ("seed-" + std::to_string(number++)), seed);
  }
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    for (const FuzzTarget& target : fuzz_targets()) replay_seeds(target);
  } else if (arguments[0] == "--list") {
    for (const FuzzTarget& target : fuzz_targets()) {
      std::printf("%-20s %s\n", std::string(target.name).c_str(),
                  std::string(target.reads).c_str());
    }
  } else if (arguments[0] == "--seeds" && arguments.size() == 3) {
    write_seeds(target_named(arguments[1]), arguments[2]);
  } else {
    const FuzzTarget& target = target_named(arguments[0]);
    for (size_t i = 1; i < arguments.size(); ++i) run_target(target, read_file(arguments[i]));
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  try {
    nibble::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
