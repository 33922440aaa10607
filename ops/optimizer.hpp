#pragma once
#include <array>
#include <bit>
#include <span>
#include <vector>

#include "core/op/op_list.hpp"
#include "fusetape/ops.hpp"

/// Recorded update steps, for the optim module. The scalars of a step are tensors that parameters share, so
/// that changing them makes no new plan. They are f64, whatever the parameters: kernels round them when
/// nothing is computed from them any more.
namespace fusetape::ops {

/// √Σ g² over all elements of all `gradients` (at least one; any shapes; f32 and 16 bits may mix, or all
/// f64): a scalar, f32 (f64 of f64). NaN and infinity show in it.
Tensor grad_norm(const std::vector<Tensor>& gradients, Location at);

/// Appends the scalars of a step to `to`, a tensor for each number of the update's `Scalars`.
template <class Scalars>
void append_scalars(const Scalars& scalars, std::vector<Tensor>& to, Location at) {
  const auto numbers = std::bit_cast<std::array<double, sizeof(Scalars) / sizeof(double)>>(scalars);
  for (const double number : numbers) to.push_back(scalar(number, DType::f64, at));
}

/// Of several that were appended, those of the `place`th. U: a rule of core::updates.
template <class U>
std::span<const Tensor> scalars_at(const std::vector<Tensor>& all, std::size_t place) {
  constexpr auto each = static_cast<std::size_t>(core::updates::scalars_of<U>);
  return {all.data() + place * each, each};
}

/// One of FUSETAPE_UPDATE_OPS: p' and the new values of the state, which `variant` says how much of there is.
core::Outputs update(const core::OpDef& op, int variant, const Tensor& parameter, const Tensor& gradient,
                     std::span<const Tensor> state, std::span<const Tensor> scalars, Location at);

}  // namespace fusetape::ops
