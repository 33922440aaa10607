#pragma once
#include <string_view>

#include "backends/cpu/pointwise_blocks.hpp"

namespace fusetape::backends::cpu {

/// Which dtypes an op may meet beside floating ones.
enum class Elements : std::uint8_t {
  floats,   ///< f32, bf16, f16 only
  compare,  ///< bool and u8 operands too; gives bool
  select,   ///< moves values: bool and u8 in and out
  convert,  ///< cast
};

struct PointwiseOp {
  std::string_view name;
  Code code = Code::copy;
  Elements elements = Elements::floats;
};

/// The row of an op; nullptr: not a pointwise op that programs know.
const PointwiseOp* find_pointwise_op(std::string_view name);

}  // namespace fusetape::backends::cpu
