#pragma once
#include <span>

#include "core/op/op.hpp"

/// Mixed precision at recording (`fusetape::Autocast`): ops take their inputs as OpDef::takes says. Of linear
/// and conv_transpose2d, mse_loss and bce_with_logits, which are no ops, the calls ask.
namespace fusetape::core {

/// The dtype in which such an op takes an input of `dtype` recorded here and now: another only under
/// Autocast. For checks that are made before anything is recorded.
DType autocast_input(Takes takes, DType dtype);

/// Puts the dtypes in which the op takes its inputs here and now in the place of those that they have.
void autocast_inputs(const OpDef& op, std::span<TensorInfo> inputs);

}  // namespace fusetape::core
