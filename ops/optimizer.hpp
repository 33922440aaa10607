#pragma once
#include <vector>

#include "fusetape/tensor.hpp"

/// Recorded update steps, for the optim module. The scalars of a step are tensors so that all parameters
/// share them: the planner joins updates with the same scalars into one kernel. They are f64, whatever the
/// parameters: kernels round them when nothing is computed from them any more.
namespace fusetape::ops {

/// √Σ g² over all elements of all `gradients` (at least one; any shapes; f32 and 16 bits may mix, or all
/// f64): a scalar, f32 (f64 of f64). NaN and infinity show in it.
Tensor grad_norm(const std::vector<Tensor>& gradients, Location at);

struct SgdScalars {
  Tensor lr, weight_decay;
  Tensor momentum;  ///< read only with a velocity
};
struct SgdStep {
  Tensor parameter, velocity;  ///< velocity undefined without momentum
};
/// d = g + weight_decay·p;  v' = momentum·v + d;  p' = p − lr·(nesterov ? d + momentum·v' : v').  An
/// undefined velocity: plain SGD, p' = p − lr·d. (PyTorch's SGD, without dampening; Sutskever et al. 2013.)
SgdStep sgd_update(const Tensor& parameter, const Tensor& gradient, const Tensor& velocity,
                   const SgdScalars& scalars, bool nesterov, Location at);

struct AdamScalars {
  Tensor lr, beta1, beta2, eps, weight_decay;
  Tensor correction1, correction2;  ///< 1 − β₁ᵗ, 1 − β₂ᵗ
};
struct AdamStep {
  Tensor parameter, m, v;
};
/// Adam (Kingma, Ba 2015), or AdamW (Loshchilov, Hutter 2019) when `decoupled`.
AdamStep adam_update(const Tensor& parameter, const Tensor& gradient, const Tensor& m, const Tensor& v,
                     const AdamScalars& scalars, bool decoupled, Location at);

}  // namespace fusetape::ops
