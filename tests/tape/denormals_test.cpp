// set_flush_denormals: on every thread of a run, and nowhere else.
#include <doctest/doctest.h>
#include <immintrin.h>
#include <omp.h>

#include <algorithm>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

constexpr float denormal = 1e-40f;
constexpr unsigned both = 1U << 6 | 1U << 15;  // MXCSR: denormals are zeros, flush to zero

/// How many of many halves of a denormal number are 0: all threads have their share.
std::int64_t zeros_in_a_run() {
  const std::vector<float> halves =
      (ft::from_vector(std::vector<float>(1 << 18, denormal), {1 << 18}) * 0.5).to_vector();
  return std::count(halves.begin(), halves.end(), 0.0f);
}

/// Threads of this process's team, this one included, that flush.
int flushing_threads() {
  int count = 0;
#pragma omp parallel reduction(+ : count)
  count += (_mm_getcsr() & both) != 0 ? 1 : 0;
  return count;
}

class Flushing {
 public:
  Flushing() { ft::set_flush_denormals(true); }
  ~Flushing() { ft::set_flush_denormals(false); }
};

}  // namespace

TEST_CASE("denormal numbers are 0 to a run that is asked to flush them, and to nobody before or after") {
  CHECK_FALSE(ft::flush_denormals());
  const int threads = ft::threads();
  for (const char* backend : {"cpu", "reference"}) {
    const OnBackend on(backend);
    for (const int count : {1, most_threads}) {
      INFO(backend, ", ", count, " threads");
      ft::set_threads(count);
      CHECK(zeros_in_a_run() == 0);
      {
        const Flushing flushing;
        CHECK(zeros_in_a_run() == 1 << 18);
        CHECK(flushing_threads() == 0);
      }
      CHECK(zeros_in_a_run() == 0);
    }
  }
  ft::set_threads(threads);
}

TEST_CASE("after a run that fails, denormal numbers are not flushed either") {
  const Flushing flushing;
  const Tensor labels = ft::from_vector(std::vector<std::int64_t>{0, 7}, {2});
  CHECK_THROWS_AS(ft::cross_entropy(ft::ones({2, 3}), labels).item(), ft::Error);
  CHECK(flushing_threads() == 0);
}

TEST_CASE("a caller that flushes denormal numbers itself goes on doing so") {
  const Flushing flushing;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | both);
  const std::int64_t zeros = zeros_in_a_run();
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
#pragma omp parallel
  _mm_setcsr(_mm_getcsr() & ~both);
  CHECK(zeros == 1 << 18);
  CHECK((after & both) == both);
}
