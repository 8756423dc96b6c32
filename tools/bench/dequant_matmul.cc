// Speed of kernels/dequant_matmul.h beside OpenBLAS, the memory's read bandwidth and our own scalar
// reference, all interleaved in one process. How to run it: tools/bench/README.md.
//
// Cold: every call takes another matrix of a set larger than the caches. A figure is the median
// over the rounds, with the least and the most; every ratio is a median of ratios within a round.
#include "kernels/dequant_matmul.h"

#include <cblas.h>
#include <immintrin.h>
#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/dequant_matmul_paths.h"
#include "kernels/matmul.h"
#include "src/quantized/quantized_linear.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/matrix.h"
#include "src/tensor/tensor.h"

extern "C" char* openblas_get_corename(void);

namespace nibble {
namespace {

constexpr int64_t kN = 4096;
constexpr int64_t kK = 4096;
constexpr int64_t kColdBytes = int64_t{200} << 20;  // over six times a 32 MB cache

// One thread: its own processor time, which other processes do not stretch; several: wall time.
double now(int threads) {
  timespec time{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_of(const std::function<void()>& work) {
  const int threads = omp_get_max_threads();
  const double start = now(threads);
  work();
  return now(threads) - start;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// One competitor: `run` makes `calls` calls.
struct Entry {
  std::string name;
  std::function<void()> run;
  double calls = 1.;
  double bytes = 0.;            // read by a call
  std::vector<double> seconds;  // a call's, per round
};

void measure(std::vector<Entry>& entries, int rounds) {
  for (Entry& entry : entries) entry.run();
  for (int round = 0; round < rounds; ++round) {
    for (Entry& entry : entries) entry.seconds.push_back(seconds_of(entry.run) / entry.calls);
  }
}

double ratio(const Entry& slow, const Entry& fast) {
  std::vector<double> ratios;
  for (size_t i = 0; i < slow.seconds.size(); ++i) {
    ratios.push_back(slow.seconds[i] / fast.seconds[i]);
  }
  return median(ratios);
}

void print_entry(const Entry& entry) {
  std::printf("  %-34s %9.1f us (%9.1f .. %9.1f)", entry.name.c_str(), median(entry.seconds) * 1e6,
              *std::ranges::min_element(entry.seconds) * 1e6,
              *std::ranges::max_element(entry.seconds) * 1e6);
  if (entry.bytes > 0.) std::printf("  %6.1f GB/s", entry.bytes / median(entry.seconds) * 1e-9);
  std::printf("\n");
}

QuantizedLinear random_linear(const Scheme& scheme) {
  std::mt19937_64 random(1);
  QuantizedLinear q;
  q.scheme = scheme;
  q.N = kN;
  q.K = kK;
  q.codes = Tensor::allocate(Dtype::kU8, {kN, kK});
  const auto mask = static_cast<uint8_t>((1 << scheme.grid.bits) - 1);
  for (uint8_t& code : q.codes.mutable_values<uint8_t>()) {
    code = static_cast<uint8_t>(random()) & mask;
  }
  const int64_t blocks = block_count(scheme.blocking, kN, kK);
  q.scale.values = Tensor::allocate(Dtype::kF32, {blocks});
  for (float& scale : q.scale.values.mutable_values<float>()) scale = 0.01f;
  if (scheme.zero) {
    q.zero.values = Tensor::allocate(Dtype::kU8, {blocks});
    for (uint8_t& zero : q.zero.values.mutable_values<uint8_t>()) zero = mask / 2;
  }
  return q;
}

Scheme table_scheme(int64_t block) {
  Scheme scheme = integer_scheme(4, block, true, Dtype::kF32);
  scheme.grid.kind = Grid::Kind::kTable;
  for (int i = 0; i < 16; ++i) scheme.grid.table.push_back(static_cast<float>((i - 8) * (i + 3)));
  return scheme;
}

// A set of copies that does not fit in the caches.
std::vector<PackedLinear> cold_set(const Scheme& scheme) {
  const QuantizedLinear q = random_linear(scheme);
  std::vector<PackedLinear> set;
  for (int64_t bytes = 0; bytes < kColdBytes; bytes += set[0].bytes()) set.push_back(pack(q));
  return set;
}

Matrix random_matrix(int64_t rows, int64_t columns) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  Matrix result(rows, columns);
  for (int64_t i = 0; i < result.size(); ++i) result.data()[i] = normal(random);
  return result;
}

Entry gemv(const std::string& name, const std::vector<PackedLinear>& set, const DequantPath& path) {
  const auto run = [&set, &path] {
    const Matrix x = Matrix::Ones(1, kK);
    Matrix y(1, kN);
    for (const PackedLinear& w : set) dequant_matmul(x, w, y, Accumulate::kNo, path);
  };
  return {name, run, static_cast<double>(set.size()), static_cast<double>(set[0].bytes()), {}};
}

__attribute__((target("avx2"))) int64_t sum_of(const int64_t* values, int64_t count) {
  __m256i sums[8] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int j = 0; j < 8; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(values + i + 4 * j);
      sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(at));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm256_add_epi64(sums[0], sums[j]);
  return _mm256_extract_epi64(sums[0], 0) + _mm256_extract_epi64(sums[0], 1) +
         _mm256_extract_epi64(sums[0], 2) + _mm256_extract_epi64(sums[0], 3);
}

// kColdBytes on huge pages.
class Memory {
 public:
  Memory() : values_(static_cast<int64_t*>(std::aligned_alloc(2 << 20, kColdBytes))) {
    madvise(values_, kColdBytes, MADV_HUGEPAGE);
    std::fill_n(values_, kColdBytes / 8, 1);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::free(values_); }

  // Reads it with all threads, in blocks of 1 MiB.
  int64_t read() const {
    constexpr int64_t kBlock = 1 << 17;
    int64_t total = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : total)
    for (int64_t i = 0; i < kColdBytes / 8; i += kBlock) total += sum_of(values_ + i, kBlock);
    return total;
  }

 private:
  int64_t* values_;
};

void bench_gemv(int threads) {
  const std::vector<PackedLinear> int4 = cold_set(integer_scheme(4, 128, true, Dtype::kF32));
  const std::vector<PackedLinear> asymmetric = cold_set(integer_scheme(4, 128, false, Dtype::kF32));
  const std::vector<PackedLinear> int4_64 = cold_set(integer_scheme(4, 64, true, Dtype::kF32));
  const std::vector<PackedLinear> nf4_64 = cold_set(table_scheme(64));
  const std::vector<PackedLinear> nf4 = cold_set(table_scheme(128));
  const std::vector<PackedLinear> int3 = cold_set(integer_scheme(3, 128, false, Dtype::kF32));
  const std::vector<PackedLinear> int2 = cold_set(integer_scheme(2, 64, false, Dtype::kF32));
  const std::vector<PackedLinear> int8 = cold_set(integer_scheme(8, kAll, true, Dtype::kF32));
  const Memory memory;
  const std::vector<Matrix> dense(4, random_matrix(kN, kK));
  const DequantPath& best = *dequant_paths().back();
  static volatile int64_t sink = 0;

  std::vector<Entry> entries;
  entries.push_back(
      {"DRAM read", [&] { sink = sink + memory.read(); }, 1., static_cast<double>(kColdBytes), {}});
  entries.push_back({"OpenBLAS sgemv, dense",
                     [&] {
                       const Matrix x = Matrix::Ones(1, kK);
                       Matrix y(1, kN);
                       for (const Matrix& W : dense) {
                         cblas_sgemv(CblasRowMajor, CblasNoTrans, kN, kK, 1.f, W.data(), kK,
                                     x.data(), 1, 0.f, y.data(), 1);
                       }
                     },
                     4.,
                     4. * kN * kK,
                     {}});
  entries.push_back(gemv("int4 g128", int4, best));
  entries.push_back(gemv("table g128", nf4, best));
  entries.push_back(gemv("int4 g128 asymmetric", asymmetric, best));
  entries.push_back(gemv("int4 g64", int4_64, best));
  entries.push_back(gemv("table g64", nf4_64, best));
  entries.push_back(gemv("int3 g128 asymmetric", int3, best));
  entries.push_back(gemv("int2 g64 asymmetric", int2, best));
  entries.push_back(gemv("int8 per channel", int8, best));
  for (const DequantPath* path : dequant_paths()) {
    if (path == &best) continue;
    entries.push_back(gemv("int4 g128, " + std::string(path->name), int4, *path));
  }
  const Matrix x = Matrix::Ones(1, kK);
  Matrix y(1, kN);
  entries.push_back(
      {"int4 g128, reference", [&] { dequant_matmul_reference(x, int4[0], y); }, 1., 0., {}});
  measure(entries, 7);

  const auto find = [&](const std::string& name) -> const Entry& {
    return *std::ranges::find(entries, name, &Entry::name);
  };
  std::printf("one token, %d x %d, cold, %d threads, path %s\n", static_cast<int>(kN),
              static_cast<int>(kK), threads, best.name);
  for (const Entry& entry : entries) print_entry(entry);
  const Entry& main = find("int4 g128");
  const Entry& read = find("DRAM read");
  std::printf(
      "  int4 g128: %.0f %% of read bandwidth, %.1fx sgemv, %.0fx our reference (1 thread)\n",
      100. * ratio(read, main) * main.bytes / read.bytes,
      ratio(find("OpenBLAS sgemv, dense"), main), ratio(find("int4 g128, reference"), main));
  std::printf("  table / int4: g128 %.2f, g64 %.2f\n", ratio(find("table g128"), main),
              ratio(find("table g64"), find("int4 g64")));
}

Entry product(const std::string& name, const Matrix& x, const PackedLinear& w, Matrix& y,
              int calls) {
  return {name,
          [&x, &w, &y, calls] {
            for (int i = 0; i < calls; ++i) dequant_matmul(x, w, y);
          },
          static_cast<double>(calls),
          0.,
          {}};
}

// Packed against dense weights, by the number of tokens.
void bench_tokens(int threads) {
  const PackedLinear int4 = pack(random_linear(integer_scheme(4, 128, false, Dtype::kF32)));
  const Matrix W = random_matrix(kN, kK);
  const PanelMatrix dense = make_panels(W);
  std::printf("tokens, %d x %d int4 g128 asymmetric against dense matmul and sgemm, %d threads\n",
              static_cast<int>(kN), static_cast<int>(kK), threads);
  for (const int64_t T : {1, 2, 4, 8, 9, 12, 16, 24, 32, 64, 128, 256, 512, 1024}) {
    const Matrix x = random_matrix(T, kK);
    Matrix y(T, kN);
    const int calls = std::max(1, static_cast<int>(32 / T));
    std::vector<Entry> entries;
    entries.push_back(product("packed", x, int4, y, calls));
    entries.push_back({"matmul",
                       [&] {
                         for (int i = 0; i < calls; ++i) matmul(x, dense, y);
                       },
                       static_cast<double>(calls),
                       0.,
                       {}});
    entries.push_back({"sgemm",
                       [&] {
                         for (int i = 0; i < calls; ++i) {
                           cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(T),
                                       kN, kK, 1.f, x.data(), kK, W.data(), kK, 0.f, y.data(), kN);
                         }
                       },
                       static_cast<double>(calls),
                       0.,
                       {}});
    measure(entries, T > 100 ? 5 : 7);
    const double flops = 2. * kN * kK * static_cast<double>(T);
    std::printf("  T %5d:", static_cast<int>(T));
    for (const Entry& entry : entries) {
      std::printf(" %s %8.0f us (%4.0f GF/s),", entry.name.c_str(), median(entry.seconds) * 1e6,
                  flops / median(entry.seconds) * 1e-9);
    }
    std::printf(" packed / matmul %.2f, packed / sgemm %.2f\n", ratio(entries[0], entries[1]),
                ratio(entries[0], entries[2]));
  }
}

// OpenBLAS reads these when it is loaded; they can halve its speed.
void restart_without_openblas_settings(char** arguments) {
  if (std::getenv("OPENBLAS_CORETYPE") == nullptr && std::getenv("OPENBLAS_L2_SIZE") == nullptr)
    return;
  unsetenv("OPENBLAS_CORETYPE");
  unsetenv("OPENBLAS_L2_SIZE");
  execv("/proc/self/exe", arguments);
}

void run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  std::printf("OpenBLAS core %s, paths", openblas_get_corename());
  for (const DequantPath* path : dequant_paths()) std::printf(" %s", path->name);
  std::printf("\n");
  const int most = omp_get_max_threads();
  for (const int threads : {1, most}) {
    omp_set_num_threads(threads);
    if (what != "tokens") bench_gemv(threads);
    if (what != "gemv") bench_tokens(threads);
    if (most == 1) break;
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::restart_without_openblas_settings(argv);
  nibble::run(argc, argv);
}
