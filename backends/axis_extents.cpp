#include "backends/axis_extents.hpp"

#include <utility>

namespace fusetape::backends {

std::optional<Extents> joined_extents(const Shape& shape, const core::ReduceAttrs& attrs) {
  Extents extents;
  bool reducing = false, done = false;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 1) continue;
    if (attrs.has(axis)) {
      if (done) return std::nullopt;
      reducing = true;
      extents.reduce *= shape[axis];
    } else {
      done = reducing;
      (reducing ? extents.inner : extents.outer) *= shape[axis];
    }
  }
  if (!reducing) std::swap(extents.outer, extents.inner);
  return extents;
}

}  // namespace fusetape::backends
