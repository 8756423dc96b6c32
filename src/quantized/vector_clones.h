// Functions compiled for several instruction sets, of which the program takes the best there is.
// Their operations are the same, with wider vectors where there are some, and so are their bits.
#pragma once

#define NIBBLE_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
