#pragma once
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "core/op/op_list.hpp"

/// The update of an optimizer, of one parameter or of all of a model in one group, as the kernels of every
/// backend see it.
namespace fusetape::backends {

/// Of each of the update's tensors.
template <class T>
using PerUpdateTensor = std::array<T, 2 + core::updates::most_states()>;

/// One node, with the clipping of its gradient.
struct Update {
  const core::OpDef* op = nullptr;
  int variant = 0;
  DType dtype = DType::f32;  ///< of the tensors; scalars are f64
  std::int64_t elements = 0;
  std::vector<int> scalars;
  int scale = -1;            ///< of the gradient's dtype; -1: none
  PerUpdateTensor<int> in;   ///< p, g (before it is clipped), state; -1 where there is none
  PerUpdateTensor<int> out;  ///< their new values; of g, the clipped one where it is wanted
};

/// Whether the group is one, in dtypes that kernels take: f32 and 16 bits.
Support supports_updates(const plan::Graph& graph, const plan::Group& group);
std::vector<Update> updates_of(const plan::Graph& graph, const plan::Group& group);
/// Every new value in the place of the old one; a gradient only if no other update reads it.
std::vector<std::pair<int, int>> in_place_of(const std::vector<Update>& updates);
double tensor_passes_of(const std::vector<Update>& updates);

}  // namespace fusetape::backends
