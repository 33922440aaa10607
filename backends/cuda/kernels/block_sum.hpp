#pragma once
#include "backends/cuda/phases.hpp"

namespace fusetape::backends::cuda {

/// The sum of what the 256 threads of a block have, in two phases after the one that wrote `of_thread`:
/// always in the same order.
struct BlockSum {
  static constexpr unsigned threads = 256, groups = 16;
  double of_thread[threads], of_group[groups];

  /// The next phase: a sixteenth each.
  FUSETAPE_HD void join(unsigned index) {
    if (index >= groups) return;
    double sum = 0;
    for (unsigned i = index; i < threads; i += groups) sum += of_thread[i];
    of_group[index] = sum;
  }
  /// The phase after it.
  FUSETAPE_HD double total() const {
    double sum = 0;
    for (const double group : of_group) sum += group;
    return sum;
  }
};

}  // namespace fusetape::backends::cuda
