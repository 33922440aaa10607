#pragma once
#include <memory>

#include "backends/backend.hpp"

/// A user's own op on every backend that runs on the host: its forward, as it is.
namespace fusetape::backends {

inline bool is_custom(const plan::Graph& graph, const plan::Group& group) {
  return graph.node(group.nodes[0]).op->run != nullptr;
}
std::unique_ptr<Kernel> make_custom_kernel(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends
