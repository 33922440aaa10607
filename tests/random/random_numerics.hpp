#pragma once
#include <cstdint>

#include "tests/random/random_program.hpp"

/// What rounding may do to a random program: it is run in f64, op by op, with the operands watched or
/// disturbed.
namespace fusetape::tests {

/// How far an op is off.
struct Disturbance {
  double relative = 0;  ///< operands and results, of themselves: a zero stays
  /// Results of a convolution, of the largest product of its operands: Winograd adds and takes away what does
  /// not belong to a pixel.
  double of_largest = 0;
  friend auto operator<=>(const Disturbance&, const Disturbance&) = default;
};

/// The program in f64. Each op that would round in another dtype is off by up to so much, each time by
/// another random share, drawn from `seed`; where that is odd, equal elements by the same. As far as results
/// move, the program's own rounding may move them, whoever computes it.
Outcome run_in_double(Recipe recipe, const Disturbance& disturbance = {}, std::uint64_t seed = 0);

/// Whether no result of an op is rounded to its dtype, and f32 holds every partial sum in whatever order.
bool is_exact(Recipe recipe);

}  // namespace fusetape::tests
