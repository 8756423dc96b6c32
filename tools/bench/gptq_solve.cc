// One GPTQ solve on inputs from files, timed: the C++ side of tools/bench/gptq_solve.
//   gptq_solve N K H.f32 W.f32 plain|default ROUNDS
// H.f32 [K, K], W.f32 [N, K]: raw floats. Prints one JSON object per round: seconds of wall and of
// processor time (all threads), parts, and the loss tr((W-Q) H (W-Q)') / tr(W H W').
#include <omp.h>
#include <time.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <ios>
#include <string>

#include "kernels/factorize.h"
#include "quantizers/solvers/gptq.h"
#include "quantizers/solvers/layer_error.h"
#include "quantizers/solvers/scale_search.h"
#include "quantizers/solvers/solver.h"
#include "src/quantized/scheme.h"
#include "src/tensor/dtype.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"

extern "C" char* openblas_get_corename(void);

namespace nibble {
namespace {

Matrix read_matrix(const char* file, int64_t rows, int64_t columns) {
  Matrix matrix(rows, columns);
  std::ifstream in(file, std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(matrix.size() * 4);
  in.read(reinterpret_cast<char*>(matrix.data()), bytes);
  if (in.gcount() != bytes) throw Error(file, "too short");
  return matrix;
}

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run(const Matrix& H, const Matrix& W, const GptqOptions& options) {
  const LinearProblem problem = {
      .W = W, .scheme = integer_scheme(4, 128, false, Dtype::kF16), .where = "bench"};
  const double wall = wall_seconds();
  const double processor = processor_seconds();
  const Factorization factorization = factorize_for_gptq(H, options, "bench");
  const GptqResult result = solve_gptq(problem, H, factorization, options);
  const double wall_total = wall_seconds() - wall;
  const double processor_total = processor_seconds() - processor;
  const double error = output_error(W, H, result.solved.q);
  std::printf(
      "{\"threads\": %d, \"corename\": \"%s\", \"wall\": %.4f, \"processor\": %.4f, "
      "\"factorize\": %.4f, \"search\": %.4f, \"solve\": %.4f, \"refine\": %.4f, "
      "\"loss\": %.9g}\n",
      omp_get_max_threads(), openblas_get_corename(), wall_total, processor_total,
      factorization.seconds, result.search_seconds, result.solve_seconds, result.refine_seconds,
      error * error);
  std::fflush(stdout);
}

}  // namespace
}  // namespace nibble

int main(int count, char** arguments) try {
  if (count != 7) {
    std::fprintf(stderr, "gptq_solve N K H.f32 W.f32 plain|default ROUNDS\n");
    return 2;
  }
  const int64_t N = std::atoll(arguments[1]);
  const int64_t K = std::atoll(arguments[2]);
  const nibble::Matrix H = nibble::read_matrix(arguments[3], K, K);
  const nibble::Matrix W = nibble::read_matrix(arguments[4], N, K);
  nibble::GptqOptions options;
  if (std::string(arguments[5]) == "plain") {
    options.search = nibble::ScaleSearch::kMinMax;
    options.sweeps = 0;
  }
  for (int round = 0; round < std::atoi(arguments[6]); ++round) nibble::run(H, W, options);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
