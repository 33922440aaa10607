#pragma once
#include <cmath>

#include "core/host_device.hpp"

/// The arithmetic of optimizer updates (op_attrs.hpp, SgdAttrs and AdamAttrs): one source for the kernels of
/// every backend. g is the gradient after clipping.
namespace fusetape::core {

struct SgdFactors {
  float lr, weight_decay, momentum;  ///< momentum 0, velocity 0: as without one
  bool nesterov;
};
struct SgdElement {
  float p, velocity;
};
FUSETAPE_HD inline SgdElement sgd_updated(const SgdFactors& f, float p, float g, float velocity) {
  const float d = std::fma(f.weight_decay, p, g);
  const float next = std::fma(f.momentum, velocity, d);
  const float change = f.nesterov ? std::fma(f.momentum, next, d) : next;
  return {std::fma(-f.lr, change, p), next};
}

/// The scalars of a step as the op has them.
struct AdamSettings {
  float lr, beta1, beta2, eps, weight_decay, correction1, correction2;
};
/// What an element needs of them: step = lr/c₁, root = 1/√c₂, restᵢ = 1 − βᵢ; `decay` times p is added to the
/// gradient, `keep` is the part of p that stays.
struct AdamFactors {
  float step, beta1, rest1, beta2, rest2, eps, root, decay, keep;
};
FUSETAPE_HD inline AdamFactors adam_factors(const AdamSettings& s, bool decoupled) {
  const double lr = s.lr, beta1 = s.beta1, beta2 = s.beta2, weight_decay = s.weight_decay;
  return {static_cast<float>(lr / static_cast<double>(s.correction1)),
          s.beta1,
          static_cast<float>(1 - beta1),
          s.beta2,
          static_cast<float>(1 - beta2),
          s.eps,
          static_cast<float>(1 / std::sqrt(static_cast<double>(s.correction2))),
          decoupled ? 0.0f : s.weight_decay,
          decoupled ? static_cast<float>(1 - lr * weight_decay) : 1.0f};
}

struct AdamElement {
  float p, m, v;
};
FUSETAPE_HD inline AdamElement adam_updated(const AdamFactors& f, float p, float gradient, float m, float v) {
  const float g = std::fma(f.decay, p, gradient);
  const float next_m = std::fma(f.beta1, m, f.rest1 * g);
  const float next_v = std::fma(f.beta2, v, f.rest2 * (g * g));
  const float ratio = next_m / std::fma(std::sqrt(next_v), f.root, f.eps);
  return {std::fma(-f.step, ratio, f.keep * p), next_m, next_v};
}

}  // namespace fusetape::core
