#pragma once
#include <algorithm>
#include <string>

#include "backends/backend.hpp"
#include "backends/cuda/kernels/elements.hpp"

namespace fusetape::backends::cuda {

/// Calls f(T()) with the type of such elements: f32 or 16 bits.
template <class F>
void with_element_type(DType dtype, F&& f) {
  if (dtype == DType::f32) f(float());
  if (dtype == DType::bf16) f(Bf16());
  if (dtype == DType::f16) f(F16());
}

/// Refuses a node with floating operands of other dtypes.
inline Support f32_or_half_only(const plan::Graph& graph, const plan::GraphNode& node) {
  const auto wide = [&](int value) { return graph.value(value).dtype == DType::f64; };
  const auto tensors = node.inputs.end() - node.op->numbers;
  if (std::any_of(node.inputs.begin(), tensors, wide) ||
      std::any_of(node.outputs.begin(), node.outputs.end(), wide)) {
    return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  }
  return {};
}

}  // namespace fusetape::backends::cuda
