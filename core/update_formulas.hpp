#pragma once
#include <cmath>

#include "core/host_device.hpp"

/// The arithmetic of optimizer updates (op_attrs.hpp, SgdAttrs and AdamAttrs): one source for the kernels of
/// every backend. g is the gradient after clipping. Settings come as doubles, and what an element needs of
/// them is computed in doubles and rounded once.
namespace fusetape::core {

/// A factor that is applied again in each step, as a sum of two floats: were it rounded to one, β = 0.999
/// would average over 1.3e-5 too many steps.
struct Decay {
  float high, low;
};
/// `low` has the sign of `high` and is 0 for a factor of 0 only, so that an infinite moment stays infinite;
/// that of a factor that a float holds is too small to change a sum that needs no rounding.
FUSETAPE_HD inline Decay decay_of(double factor) {
  const auto nearest = static_cast<float>(factor);
  if (static_cast<double>(nearest) == factor) return {nearest, nearest * 0x1p-64f};
  const auto high = static_cast<float>(factor * (1 - 0x1p-23));
  return {high, static_cast<float>(factor - static_cast<double>(high))};
}
/// decay·x + more.
FUSETAPE_HD inline float decayed(const Decay& decay, float x, float more) {
  return std::fma(decay.high, x, std::fma(decay.low, x, more));
}

struct SgdFactors {
  float lr, weight_decay;
  Decay momentum;  ///< 0, and velocity 0: as without one
  bool nesterov;
};
FUSETAPE_HD inline SgdFactors sgd_factors(double lr, double weight_decay, double momentum, bool nesterov) {
  return {static_cast<float>(lr), static_cast<float>(weight_decay), decay_of(momentum), nesterov};
}

struct SgdElement {
  float p, velocity;
};
FUSETAPE_HD inline SgdElement sgd_updated(const SgdFactors& f, float p, float g, float velocity) {
  const float d = std::fma(f.weight_decay, p, g);
  const float next = decayed(f.momentum, velocity, d);
  const float change = f.nesterov ? decayed(f.momentum, next, d) : next;
  return {std::fma(-f.lr, change, p), next};
}

/// The scalars of a step as the op has them.
struct AdamSettings {
  double lr, beta1, beta2, eps, weight_decay, correction1, correction2;
};
/// What an element needs of them: restᵢ = 1 − βᵢ; √c₂ is taken into step = lr·√c₂/c₁ and eps·√c₂; `decay`
/// times p is added to the gradient, `shrink` times p is taken from p.
struct AdamFactors {
  Decay beta1, beta2;
  float rest1, rest2, step, eps, decay, shrink;
};
FUSETAPE_HD inline AdamFactors adam_factors(const AdamSettings& s, bool decoupled) {
  const double root = std::sqrt(s.correction2);
  return {decay_of(s.beta1),
          decay_of(s.beta2),
          static_cast<float>(1 - s.beta1),
          static_cast<float>(1 - s.beta2),
          static_cast<float>(s.lr * root / s.correction1),
          static_cast<float>(s.eps * root),
          decoupled ? 0.0f : static_cast<float>(s.weight_decay),
          decoupled ? static_cast<float>(s.lr * s.weight_decay) : 0.0f};
}

struct AdamElement {
  float p, m, v;
};
FUSETAPE_HD inline AdamElement adam_updated(const AdamFactors& f, float p, float gradient, float m, float v) {
  const float g = std::fma(f.decay, p, gradient);
  const float next_m = decayed(f.beta1, m, f.rest1 * g);
  const float next_v = decayed(f.beta2, v, f.rest2 * (g * g));
  const float ratio = next_m / (std::sqrt(next_v) + f.eps);
  return {std::fma(-f.step, ratio, std::fma(-f.shrink, p, p)), next_m, next_v};
}

}  // namespace fusetape::core
