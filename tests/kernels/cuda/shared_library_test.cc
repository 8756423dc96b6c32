#include "kernels/cuda/shared_library.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "src/tensor/error.h"

namespace nibble {
namespace {

TEST(SharedLibrary, OpensTheFirstThatThereIs) {
  const std::array names = {"libnibble-none.so.1", "libm.so.6"};
  const SharedLibrary library(names, "");
  EXPECT_EQ(library.name(), "libm.so.6");
  double (*cosine)(double) = nullptr;
  library.find(cosine, "cos");
  EXPECT_EQ(cosine(0.), 1.);
  EXPECT_THROW(library.find(cosine, "nibble_none"), Error);
}

TEST(SharedLibrary, NamesWhatIsMissingAndWhatToInstall) {
  const std::array names = {"libnibble-none.so.2", "libnibble-none.so.1"};
  try {
    const SharedLibrary library(names, "install it");
    FAIL();
  } catch (const Error& error) {
    for (const char* name : names) {
      EXPECT_NE(error.problem().find(name), std::string::npos) << error.what();
    }
    EXPECT_EQ(error.hint(), "install it");
  }
}

}  // namespace
}  // namespace nibble
