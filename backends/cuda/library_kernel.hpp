#pragma once
#include <memory>

#include "backends/cuda/candidates.hpp"

/// Groups that one operation of a library computes.
namespace fusetape::backends::cuda {

/// The values in an operation's places; -1: it has none there.
struct OperationRoles {
  int a = -1, b = -1, bias = -1, z = -1;
  int out = -1;
};

std::unique_ptr<Kernel> make_library_kernel(const plan::Graph& graph, Device& device,
                                            std::shared_ptr<LibraryOperation> operation,
                                            const OperationRoles& roles);
/// For sums of nothing, which no library has to be asked for: `out` becomes zeros.
std::unique_ptr<Kernel> make_empty_sum(const plan::Graph& graph, Device& device, int out);

}  // namespace fusetape::backends::cuda
