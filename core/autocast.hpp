#pragma once
#include <span>
#include <string_view>

#include "core/op.hpp"

/// Mixed precision at recording (`fusetape::Autocast`): which op takes its inputs in which precision.
namespace fusetape::core {

/// The dtype in which the call `name` takes an input of `dtype` recorded here and now: another only under
/// Autocast. For checks that are made before anything is recorded.
DType autocast_input(std::string_view name, DType dtype);

/// Puts the dtypes in which the op takes its inputs here and now in the place of those that they have.
void autocast_inputs(std::string_view op, std::span<TensorInfo> inputs);

}  // namespace fusetape::core
