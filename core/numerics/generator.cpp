#include "core/numerics/generator.hpp"

#include "fusetape/runtime.hpp"

namespace fusetape {

namespace {
thread_local GeneratorState generator;
}

namespace core {

Draw draw(std::int64_t count) {
  constexpr std::uint64_t mask = (std::uint64_t{1} << 53) - 1;
  const std::uint64_t first = (generator.counter + 3) / 4 * 4;
  generator.counter = first + static_cast<std::uint64_t>(count);
  const std::uint64_t seed = (generator.seed ^ (generator.seed >> 53)) & mask;
  return {static_cast<std::int64_t>(seed), static_cast<std::int64_t>(first & mask)};
}

}  // namespace core

void manual_seed(std::uint64_t seed) { generator = {seed, 0}; }
GeneratorState generator_state() { return generator; }
void set_generator_state(GeneratorState state) { generator = state; }

}  // namespace fusetape
