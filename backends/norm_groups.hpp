#pragma once
#include <initializer_list>

#include "backends/backend.hpp"

/// What batch norm kernels of every device ask of their operands.
namespace fusetape::backends {

/// Refuses group norms, without a reason, and, with one, what is empty, broadcast, or of other dtypes than
/// `dtypes` (the statistics and parameters are f32).
Support norm_operands(const plan::Graph& graph, const plan::NormForward& roles,
                      std::initializer_list<DType> dtypes);
Support norm_operands(const plan::Graph& graph, const plan::NormBackward& roles,
                      std::initializer_list<DType> dtypes);

}  // namespace fusetape::backends
