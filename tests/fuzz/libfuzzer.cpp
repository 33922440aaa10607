// The entry point that libFuzzer calls; the build says which target FUSETAPE_FUZZ_TARGET is.
#include "fuzz/readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fusetape::fuzz::FUSETAPE_FUZZ_TARGET({data, size});
  return 0;
}
