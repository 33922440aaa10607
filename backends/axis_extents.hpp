#pragma once
#include <cstdint>
#include <optional>

#include "core/op/op_attrs.hpp"

namespace fusetape::backends {

/// A shape by what a reduction does with it: kept, reduced, kept.
struct Extents {
  std::int64_t outer = 1, reduce = 1, inner = 1;
  std::int64_t results() const { return outer * inner; }
  std::int64_t elements() const { return outer * reduce * inner; }
};

/// Nothing when the reduced axes are not neighbours (but for axes of extent 1).
std::optional<Extents> joined_extents(const Shape& shape, const core::ReduceAttrs& attrs);

}  // namespace fusetape::backends
