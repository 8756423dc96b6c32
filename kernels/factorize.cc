// A tiled Cholesky factorisation from the last column to the first: with L = D F lower triangular,
// A = L'L. For the block rows i from the last one:
//   A_ij -= sum over k > i of L_ki' L_kj,   A_ii = L_ii' L_ii,   L_ij = L_ii'^-1 A_ij   (j < i)
// L_ii comes from LAPACK's potrf of the tile with rows and columns reversed.
#include "kernels/factorize.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/blas.h"
#include "src/tensor/error.h"
#include "src/tensor/matrix.h"
#include "src/tensor/stopwatch.h"

extern "C" {
void spotrf_(const char* uplo, const blasint* n, float* a, const blasint* lda, blasint* info);
void dpotrf_(const char* uplo, const blasint* n, double* a, const blasint* lda, blasint* info);
}

namespace nibble {
namespace {

constexpr int64_t kTile = 256;
// Columns of one product: BLAS arranges its left side anew in each. The last strips are narrow, so
// that threads end at nearly the same time.
constexpr int64_t kStripColumns = 2 * kTile;
constexpr int64_t kNarrowStrips = 4;
constexpr int64_t kSolveRows = 64;  // rows of B per task of solve_rows
constexpr int64_t kMoveTile = 64;   // rows per task when the Hessian is reordered

// c -= a' b, row-major; a [depth, rows], b [depth, columns], all with row length `stride`.
void subtract_product(int64_t rows, int64_t columns, int64_t depth, const float* a, const float* b,
                      float* c, int64_t stride) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas(rows), blas(columns), blas(depth), -1.f,
              a, blas(stride), b, blas(stride), 1.f, c, blas(stride));
}
void subtract_product(int64_t rows, int64_t columns, int64_t depth, const double* a,
                      const double* b, double* c, int64_t stride) {
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas(rows), blas(columns), blas(depth), -1.,
              a, blas(stride), b, blas(stride), 1., c, blas(stride));
}

// Lower triangle of c -= a' a.
void subtract_square(int64_t rows, int64_t depth, const float* a, float* c, int64_t stride) {
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, blas(rows), blas(depth), -1.f, a, blas(stride),
              1.f, c, blas(stride));
}
void subtract_square(int64_t rows, int64_t depth, const double* a, double* c, int64_t stride) {
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, blas(rows), blas(depth), -1., a, blas(stride),
              1., c, blas(stride));
}

// b [rows, columns] = l'^-1 b, l lower triangular [rows, rows].
void solve_transposed(int64_t rows, int64_t columns, const float* l, float* b, int64_t stride) {
  cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, blas(rows),
              blas(columns), 1.f, l, blas(stride), b, blas(stride));
}
void solve_transposed(int64_t rows, int64_t columns, const double* l, double* b, int64_t stride) {
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, blas(rows),
              blas(columns), 1., l, blas(stride), b, blas(stride));
}

// Lower triangle, row-major, in place: a = l l'. Returns false unless positive definite.
bool cholesky(float* a, int64_t n) {
  const blasint size = blas(n);
  blasint info = 0;
  spotrf_("U", &size, a, &size, &info);
  return info == 0;
}
bool cholesky(double* a, int64_t n) {
  const blasint size = blas(n);
  blasint info = 0;
  dpotrf_("U", &size, a, &size, &info);
  return info == 0;
}

// In place the lower triangle of a tile: a = l' l, l lower triangular.
template <typename Real>
bool cholesky_reversed(Real* a, int64_t n, int64_t stride, std::vector<Real>& buffer) {
  buffer.resize(static_cast<size_t>(n * n));
  Real* reversed = buffer.data();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) reversed[(n - 1 - j) * n + n - 1 - i] = a[i * stride + j];
  }
  if (!cholesky(reversed, n)) return false;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) a[i * stride + j] = reversed[(n - 1 - j) * n + n - 1 - i];
  }
  return true;
}

// Left of block row i lie i tiles: strips of two while more than kNarrowStrips are left, then of
// one, and at last the diagonal tile, a strip without columns.
int64_t wide_strips(int64_t i) { return std::max<int64_t>(0, i - kNarrowStrips) / 2; }
int64_t strips(int64_t i) { return i - wide_strips(i) + 1; }
std::pair<int64_t, int64_t> strip_columns(int64_t i, int64_t strip) {
  const int64_t wide = wide_strips(i);
  if (strip < wide) return {strip * kStripColumns, kStripColumns};
  return {(strip + wide) * kTile, strip + wide < i ? kTile : 0};
}

// In place: the lower triangle of A [K, K] becomes L, A = L'L. Returns false unless positive
// definite.
template <typename Real>
bool factor_tiles(Real* A, int64_t K) {
  const int64_t tiles = (K + kTile - 1) / kTile;
  bool good = true;
  std::vector<Real> buffer;
#pragma omp parallel
  for (int64_t i = tiles - 1; i >= 0 && good; --i) {
    const int64_t row = i * kTile;
    const int64_t rows = std::min(kTile, K - row);
    const int64_t done = row + rows;  // rows from here on are factored
#pragma omp for schedule(dynamic)
    for (int64_t strip = 0; strip < strips(i); ++strip) {
      const auto [first, columns] = strip_columns(i, strip);
      const Real* left = A + done * K + row;
      if (columns == 0) {
        subtract_square(rows, K - done, left, A + row * K + row, K);
      } else {
        subtract_product(rows, columns, K - done, left, A + done * K + first, A + row * K + first,
                         K);
      }
    }
#pragma omp single
    good = cholesky_reversed(A + row * K + row, rows, K, buffer);
#pragma omp for schedule(dynamic)
    for (int64_t j = 0; j < i; ++j) {
      if (good) solve_transposed(rows, kTile, A + row * K + row, A + row * K + j * kTile, K);
    }
  }
  return good;
}

// Lower triangle of A = H[order][order] + damping * I; 1 on the diagonal of dead columns, whose
// other entries are 0 in a sum of squares.
template <typename Real>
void load(ConstMatrixRef H, const std::vector<int32_t>& order, double damping, Real* A) {
  const int64_t K = H.rows();
#pragma omp parallel for schedule(dynamic)
  for (int64_t first = 0; first < K; first += kMoveTile) {
    for (int64_t i = first; i < std::min(K, first + kMoveTile); ++i) {
      const int64_t row = order[static_cast<size_t>(i)];
      const float* h = H.data() + row * H.outerStride();
      for (int64_t j = 0; j < i; ++j) A[i * K + j] = h[order[static_cast<size_t>(j)]];
      A[i * K + i] = h[row] == 0.f ? Real{1} : static_cast<Real>(double{h[row]} + damping);
    }
  }
}

// L = D F. Returns false when a pivot has lost nearly all digits of Real: relative to the diagonal
// the rounding errors of K products are about sqrt(K) epsilon.
template <typename Real>
bool separate(const Real* L, ConstMatrixRef H, double damping, Factorization& result) {
  const int64_t K = H.rows();
  const double lost =
      4. * std::sqrt(static_cast<double>(K)) * double{std::numeric_limits<Real>::epsilon()};
  result.D.resize(static_cast<size_t>(K));
  bool good = true;
#pragma omp parallel for schedule(dynamic, kMoveTile) reduction(&& : good)
  for (int64_t i = 0; i < K; ++i) {
    const double pivot = L[i * K + i];
    const int64_t column = result.order[static_cast<size_t>(i)];
    const double diagonal = double{H(column, column)} + damping;
    good = good && (H(column, column) == 0.f || pivot * pivot > lost * diagonal);
    for (int64_t j = 0; j < i; ++j) {
      result.F(i, j) = static_cast<float>(static_cast<double>(L[i * K + j]) / pivot);
    }
    result.F(i, i) = 1.f;
    result.F.row(i).tail(K - 1 - i).setZero();
    result.D[static_cast<size_t>(i)] = static_cast<float>(pivot);
  }
  return good;
}

bool try_float(ConstMatrixRef H, double damping, Factorization& result) {
  load(H, result.order, damping, result.F.data());
  if (!factor_tiles(result.F.data(), H.rows())) return false;
  return separate(result.F.data(), H, damping, result);
}

bool try_double(ConstMatrixRef H, double damping, Factorization& result) {
  std::vector<double> A(static_cast<size_t>(H.size()));
  load(H, result.order, damping, A.data());
  return factor_tiles(A.data(), H.rows()) && separate(A.data(), H, damping, result);
}

void check_entries(ConstMatrixRef H, const std::string& where) {
  const int64_t K = H.rows();
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t i = 0; i < K; ++i) {
    float poison = 0.f;
    for (int64_t j = i; j < K; ++j) poison += 0.f * H(i, j);
    finite = finite && poison == 0.f;
  }
  for (int64_t i = 0; i < K; ++i) {
    for (int64_t j = i; j < K && !finite; ++j) {
      if (std::isfinite(H(i, j))) continue;
      throw Error(where,
                  std::string("Hessian: ") + (std::isnan(H(i, j)) ? "NaN" : "infinity") +
                      " at row " + std::to_string(i) + ", column " + std::to_string(j),
                  "are there NaN in the activations?");
    }
    if (H(i, i) < 0.f) {
      throw Error(where,
                  "Hessian: diagonal " + std::to_string(H(i, i)) + " at column " +
                      std::to_string(i) + ", expected a mean of squares",
                  "are the statistics damaged?");
    }
  }
}

double mean_of_live(ConstMatrixRef H, size_t dead) {
  const double trace = H.diagonal().cast<double>().sum();
  const auto live = static_cast<double>(H.rows()) - static_cast<double>(dead);
  return live > 0. ? trace / live : 0.;
}

}  // namespace

std::vector<int32_t> natural_order(int64_t K) {
  std::vector<int32_t> order(static_cast<size_t>(K));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<int32_t> activation_order(ConstMatrixRef H) {
  std::vector<int32_t> order = natural_order(H.rows());
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return H(a, a) > H(b, b); });
  return order;
}

Factorization factorize(ConstMatrixRef H, std::vector<int32_t> order, double damp,
                        const std::string& where) {
  assert(H.rows() == H.cols() && static_cast<int64_t>(order.size()) == H.rows());
  const Stopwatch watch;
  check_entries(H, where);
  Factorization result;
  result.order = std::move(order);
  for (int64_t k = 0; k < H.rows(); ++k) {
    if (H(k, k) == 0.f) result.dead.push_back(static_cast<int32_t>(k));
  }
  const double mean = mean_of_live(H, result.dead.size());
  result.F.resize(H.rows(), H.rows());
  result.damping = damp;
  bool good = try_float(H, damp * mean, result);
  while (!good) {
    result.in_double = true;
    good = try_double(H, result.damping * mean, result);
    if (good) break;
    if (result.damping >= 1.) {
      throw Error(where, "Hessian: not positive definite with its mean added to the diagonal",
                  "are the statistics damaged?");
    }
    result.damping = std::min(1., std::max(result.damping, 1e-6) * 10.);
    ++result.escalations;
  }
  result.added = result.damping * mean;
  result.seconds = watch.seconds();
  return result;
}

void solve_rows(const Factorization& factorization, MatrixRef B) {
  const int64_t K = factorization.F.rows();
  assert(B.cols() == K);
  const auto& order = factorization.order;
  std::vector<float> weight(static_cast<size_t>(K));  // D^-2
  for (size_t j = 0; j < weight.size(); ++j) {
    weight[j] = 1.f / (factorization.D[j] * factorization.D[j]);
  }
  for (const int32_t column : factorization.dead) B.col(column).setZero();
#pragma omp parallel for schedule(dynamic)
  for (int64_t first = 0; first < B.rows(); first += kSolveRows) {
    Matrix x(std::min(kSolveRows, B.rows() - first), K);
    for (int64_t i = 0; i < x.rows(); ++i) {
      for (int64_t j = 0; j < K; ++j) x(i, j) = B(first + i, order[static_cast<size_t>(j)]);
    }
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasUnit, blas(x.rows()),
                blas(K), 1.f, factorization.F.data(), blas(K), x.data(), blas(K));
    for (int64_t i = 0; i < x.rows(); ++i) {
      for (int64_t j = 0; j < K; ++j) x(i, j) *= weight[static_cast<size_t>(j)];
    }
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasUnit, blas(x.rows()),
                blas(K), 1.f, factorization.F.data(), blas(K), x.data(), blas(K));
    for (int64_t i = 0; i < x.rows(); ++i) {
      for (int64_t j = 0; j < K; ++j) B(first + i, order[static_cast<size_t>(j)]) = x(i, j);
    }
  }
}

}  // namespace nibble
