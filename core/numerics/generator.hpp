#pragma once
#include <cstdint>

namespace fusetape::core {

/// What a random op reads: element i of the draw is number `counter + i` of the stream `seed`
/// (core/numerics/philox.hpp).
struct Draw {
  std::int64_t seed, counter;  ///< both below 2^53, so that the reference's doubles hold them
};

/// Takes `count` numbers of this thread's generator, when an op is recorded. Draws start at multiples of 4:
/// whole blocks.
Draw draw(std::int64_t count);

}  // namespace fusetape::core
