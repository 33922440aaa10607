#pragma once
#include <memory>
#include <string>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/norm_spec.hpp"
#include "backends/norm_groups.hpp"

/// Batch norms as operations of a library, beside our kernels for them.
namespace fusetape::backends::cuda {

/// A group as an operation of the library.
struct LibraryNorm {
  NormSpec spec;
  ByPlace<int> values;  ///< of the graph; -1: the spec has no such operand, or nobody reads it
  int mask = -1;        ///< of forward's y, as bits: a kernel of ours makes it from y
  std::string refusal;  ///< why the library is not asked; empty: it is

  /// Whether a kernel of ours makes running statistics from what the operation writes.
  bool tracks() const {
    return values[NormPlace::new_running_mean] >= 0 || values[NormPlace::new_running_var] >= 0;
  }
};
LibraryNorm library_norm(const plan::Graph& graph, const NormForwardRoles& roles);
LibraryNorm library_norm(const plan::Graph& graph, const plan::BatchNormReluGrad& roles);

/// The operation, and behind it our mask and running statistics.
std::unique_ptr<Kernel> make_library_norm(const plan::Graph& graph, const LibraryNorm& norm,
                                          std::shared_ptr<LibraryOperation> operation, DeviceApi& device);

}  // namespace fusetape::backends::cuda
