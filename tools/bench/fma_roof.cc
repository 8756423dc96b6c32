// What this machine's float units reach at most: independent multiply-adds in registers, on 1, 2,
// .. threads. Prints one JSON object: GFLOP/s by threads. Built with -O3 -march=native by its
// callers.
//   fma_roof THREADS
#include <omp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

#ifdef __AVX512F__
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
constexpr int kChains = 12;  // two units with a latency of at most five cycles
constexpr long kSteps = 20'000'000;
using Floats = float __attribute__((vector_size(kBytes)));

double gflops(int threads) {
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
  {
    Floats sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = Floats{} + static_cast<float>(i);
    const Floats factor = Floats{} + 0.999F;
    const Floats term = Floats{} + 1e-3F;
    for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + term;
    }
    for (int i = 0; i < kChains; ++i) asm volatile("" ::"m"(sums[i]));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double operations = 2. * kBytes / 4 * kChains * kSteps * threads;
  return operations / seconds.count() / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : omp_get_max_threads();
  gflops(threads);  // wakes the threads
  std::printf("{");
  for (int count = 1; count <= threads; ++count) {
    std::printf("%s\"%d\": %.1f", count > 1 ? ", " : "", count, gflops(count));
  }
  std::printf("}\n");
}
