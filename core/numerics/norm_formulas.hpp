#pragma once
#include <cmath>

#include "core/numerics/host_device.hpp"

/// The per-channel arithmetic of batch norm (op_attrs.hpp, BatchNormAttrs): one source for every kernel, so
/// that a mask that backward recomputes from x is equal to the bit of forward's.
namespace fusetape::core {

/// A normalisation is y = (x − mean)·a + β with a = γ/√(σ² + ε). As a·x + (β − a·mean), with the bracket
/// rounded, it would miss β by as much as a·mean is larger.
FUSETAPE_HD inline float norm_scale(float gamma, float inv_std) { return gamma * inv_std; }
FUSETAPE_HD inline float normalised(float x, float mean, float a, float beta) {
  return std::fma(a, x - mean, beta);
}

/// Of the gradient dx = a·g' + (b(x − mean) + c), from Σg' and Σg'·x̂ over n rows.
struct NormGradient {
  float a, b, c;
};
FUSETAPE_HD inline NormGradient norm_gradient(float gamma, float inv_std, double sum_g, double sum_gxhat,
                                              double n) {
  const float a = norm_scale(gamma, inv_std);
  return {a, static_cast<float>(-static_cast<double>(a) * inv_std * sum_gxhat / n),
          static_cast<float>(-static_cast<double>(a) * sum_g / n)};
}

FUSETAPE_HD inline float inverse_deviation(double variance, double eps) {
  return static_cast<float>(1.0 / std::sqrt(variance + eps));
}

/// (1 − momentum)·running + momentum·batch.
FUSETAPE_HD inline float tracked(float running, double batch, double momentum) {
  return static_cast<float>((1 - momentum) * static_cast<double>(running) + momentum * batch);
}

/// A normalisation by given statistics, folded into the convolution before it: ŵ = a·w, b̂ = a·(b − mean) + β
/// with a = γ/√(σ² + ε), each rounded once.
FUSETAPE_HD inline double folded_scale(float gamma, float variance, double eps) {
  return static_cast<double>(gamma) / std::sqrt(static_cast<double>(variance) + eps);
}
FUSETAPE_HD inline double folded_shift(double a, double bias, float mean, float beta) {
  return a * (bias - static_cast<double>(mean)) + static_cast<double>(beta);
}

/// How many, their mean, and Σ(x − mean)²; two of them join without loss (Chan, Golub, LeVeque 1979).
struct Moments {
  double count, mean, square;

  FUSETAPE_HD double variance() const { return square < 0 ? 0 : square / count; }  // rounding; a NaN stays
  /// With Bessel's correction, as running statistics have it. One value has none.
  FUSETAPE_HD double unbiased_variance() const { return variance() * (count / (count - 1)); }
};
FUSETAPE_HD inline Moments joined(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count, away = b.mean - a.mean;
  return {count, a.mean + away * (b.count / count),
          a.square + b.square + away * away * (a.count * b.count / count)};
}

}  // namespace fusetape::core
