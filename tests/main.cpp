#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>

/// Most tests ask for exact sums and for NaN where they belong: direct convolutions. Those of Winograd switch
/// it on themselves; FUSETAPE_CONV=automatic does so for all. None waits for kernels to be timed, or writes
/// to a home.
int main(int argc, char** argv) {
  constexpr int keep_what_is_set = 0;
  ::setenv("FUSETAPE_CONV", "direct", keep_what_is_set);
  ::setenv("FUSETAPE_TUNE", "off", keep_what_is_set);
  return doctest::Context(argc, argv).run();
}
