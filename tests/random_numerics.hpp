#pragma once
#include <cstdint>

#include "random_program.hpp"

/// What rounding may do to a random program: it is run in f64, op by op, with the operands watched or
/// disturbed.
namespace fusetape::tests {

/// The program in f64. Each op that would round in another dtype has operands and results off by up to
/// `relative` of themselves, each time by another random share, drawn from `seed`; where that is odd, equal
/// elements by the same. As far as results move, the program's own rounding may move them, whoever computes
/// it. 0: undisturbed.
Outcome run_in_double(Recipe recipe, double relative = 0, std::uint64_t seed = 0);

/// Whether no result of an op is rounded to its dtype, and f32 holds every partial sum in whatever order.
bool is_exact(Recipe recipe);

}  // namespace fusetape::tests
