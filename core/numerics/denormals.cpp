#include "core/numerics/denormals.hpp"

#include <immintrin.h>

namespace fusetape::core {
namespace {

constexpr unsigned denormals_are_zeros = 1U << 6, flush_to_zero = 1U << 15;
constexpr unsigned both = denormals_are_zeros | flush_to_zero;

/// On every thread that a kernel's team may have. One that OpenMP makes in between has its maker's bits.
void set_everywhere(unsigned bits) {
#pragma omp parallel
  _mm_setcsr((_mm_getcsr() & ~both) | bits);
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
