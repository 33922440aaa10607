#pragma once
#include <cstdint>

#include "fusetape/dtype.hpp"

namespace fusetape::core {

/// Converts `count` elements between dtypes, rounding to nearest; the ranges do not overlap.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count);

}  // namespace fusetape::core
