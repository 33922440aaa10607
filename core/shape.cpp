#include "fusetape/shape.hpp"

#include <ostream>

#include "core/op/op.hpp"

namespace fusetape {

Shape::Shape(std::initializer_list<std::int64_t> extents, Location at)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size()), at) {}

Shape::Shape(std::span<const std::int64_t> extents, Location at) {
  for (std::int64_t extent : extents) push_back(extent, at);
}

void Shape::push_back(std::int64_t extent, Location at) {
  if (rank_ == max_rank) {
    throw Error("shape", "expected at most " + std::to_string(max_rank) + " axes, got more", at);
  }
  extents_[static_cast<std::size_t>(rank_++)] = extent;
}

bool core::countable(const Shape& shape) {
  constexpr std::int64_t most = std::int64_t{1} << 56;
  std::int64_t count = 1;
  for (std::int64_t extent : shape) {
    if (extent < 0) return false;
    if (extent > 0 && (__builtin_mul_overflow(count, extent, &count) || count > most)) return false;
  }
  return true;
}

std::string to_string(const Shape& shape) {
  std::string text = "{";
  for (int i = 0; i < shape.rank(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "}";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << to_string(shape); }

}  // namespace fusetape
