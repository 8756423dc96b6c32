// factorize: the Cholesky factor that GPTQ works with.
//
// For columns taken in the order o, H[o][o] + damping * I = F' D^2 F with F unit lower triangular
// and D diagonal: the factor of the paper (Frantar et al. 2022, arXiv 2210.17323, section 3.3) is
// the upper U with H^-1 = U'U, and U = D^-1 (F')^-1 row by row normalised, so that one
// factorisation of H from its last column to its first gives the same without an inverse. Differs
// from the paper: it computes Cholesky, inverse and Cholesky again.
//
// Float, tiles of fixed size, each tile single-threaded: same bits for any number of threads. In
// double where float fails or loses too many digits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/tensor/matrix.h"

namespace nibble {

struct Factorization {
  std::vector<int32_t> order;  // [K] column at place j
  Matrix F;                    // [K, K] unit lower triangular, zero above
  std::vector<float> D;        // [K] at place j
  std::vector<int32_t> dead;   // columns with H_kk = 0: coupled to no other column
  double damping = 0.;         // added to the diagonal, as a share of its mean over live columns
  double added = 0.;           // that amount
  int escalations = 0;         // times the damping was raised tenfold
  bool in_double = false;
  double seconds = 0.;
};

// Columns by falling H_kk, equal ones as they are.
std::vector<int32_t> activation_order(ConstMatrixRef H);
// 0 .. K - 1.
std::vector<int32_t> natural_order(int64_t K);

// H [K, K] symmetric, both triangles. damp: share of the mean of the diagonal.
// When the factorisation fails in double too, the damping rises tenfold up to the mean itself.
// Throws Error(where, ...) for NaN or infinity in H, naming row and column, for a negative
// diagonal, and when no damping helps.
Factorization factorize(ConstMatrixRef H, std::vector<int32_t> order, double damp,
                        const std::string& where);

// In place B [M, K] (columns in their own order, not that of the factorisation): B (H + damping
// I)^-1. Dead columns of B become 0.
void solve_rows(const Factorization& factorization, MatrixRef B);

}  // namespace nibble
