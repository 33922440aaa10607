#pragma once
#include <string_view>

#include "backends/cpu/pointwise_blocks.hpp"
#include "backends/pointwise_groups.hpp"

namespace fusetape::backends::cpu {

struct PointwiseOp {
  std::string_view name;
  Code code = Code::copy;
  Elements elements = Elements::floats;
};

/// The row of an op; nullptr: not a pointwise op that programs know.
const PointwiseOp* find_pointwise_op(std::string_view name);

}  // namespace fusetape::backends::cpu
