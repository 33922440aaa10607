#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "backends/backend.hpp"

/// sgd_update and adam_update, alone or all of a model in one group, as the kernels of every backend see
/// them.
namespace fusetape::backends {

/// One node, with the clipping of its gradient.
struct Update {
  static constexpr int tensors =
      4;  ///< p, g and up to two states; their new values, and the clipped gradient

  bool adam = false;
  std::int64_t variant = 0;  ///< nesterov, or decoupled
  DType dtype = DType::f32;  ///< of the tensors; scalars are f64
  std::int64_t elements = 0;
  std::vector<int> inputs;              ///< as the op has them
  int scale = -1;                       ///< of the gradient's dtype; -1: none
  int in[tensors] = {-1, -1, -1, -1};   ///< p, g (before it is clipped), velocity, or m, v
  int out[tensors] = {-1, -1, -1, -1};  ///< their new values; of g, the clipped one where it is wanted
};

/// Whether the group is one, in dtypes that kernels take: f32 and 16 bits.
Support supports_updates(const plan::Graph& graph, const plan::Group& group);
std::vector<Update> updates_of(const plan::Graph& graph, const plan::Group& group);
/// Every new value in the place of the old one; a gradient only if no other update reads it.
std::vector<std::pair<int, int>> in_place_of(const std::vector<Update>& updates);
double tensor_passes_of(const std::vector<Update>& updates);

}  // namespace fusetape::backends
