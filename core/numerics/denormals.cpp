#include "core/numerics/denormals.hpp"

#include <immintrin.h>

namespace fusetape::core {
namespace {

constexpr unsigned denormals_are_zeros = 1U << 6, flush_to_zero = 1U << 15;
constexpr unsigned both = denormals_are_zeros | flush_to_zero;

void set_here(unsigned bits) { _mm_setcsr((_mm_getcsr() & ~both) | bits); }

/// On every thread that a kernel's team may have. One that OpenMP makes in between has its maker's bits.
/// LLVM's runtime gives a team its maker's bits at each start, and back to the maker at the end: so that one
/// comes first.
void set_everywhere(unsigned bits) {
  set_here(bits);
#pragma omp parallel
  set_here(bits);
}

}  // namespace

FlushDenormals::FlushDenormals(bool on) : on_(on) {
  if (!on_) return;
  before_ = _mm_getcsr() & both;
  set_everywhere(both);
}

FlushDenormals::~FlushDenormals() {
  if (on_) set_everywhere(before_);
}

}  // namespace fusetape::core
