#pragma once
#include <cmath>
#include <cstdint>

#include "core/numerics/host_device.hpp"

/// The formulas of pointwise ops on numbers. CUDA kernels are generated around this very text, so there is
/// nothing in it but arithmetic and <cmath>.
namespace fusetape::core::formulas {

template <class T>
FUSETAPE_HD T select(bool condition, T a, T b) {
  return condition ? a : b;
}
template <class T>
FUSETAPE_HD bool is_nan(T x) {
  const T same = x;
  return x != same;
}
template <class T>
FUSETAPE_HD T abs_of(T x) {
  return std::abs(x);
}
template <class T>
FUSETAPE_HD T exp_of(T x) {
  return std::exp(x);
}
template <class T>
FUSETAPE_HD T sigmoid_of(T x) {
  return T(1) / (T(1) + std::exp(-x));
}
template <class T>
FUSETAPE_HD T expm1_of(T x) {
  return std::expm1(x);
}
template <class T>
FUSETAPE_HD T log_of(T x) {
  return std::log(x);
}
template <class T>
FUSETAPE_HD T log1p_of(T x) {
  return std::log1p(x);
}
template <class T>
FUSETAPE_HD T sqrt_of(T x) {
  return std::sqrt(x);
}
template <class T>
FUSETAPE_HD T tanh_of(T x) {
  return std::tanh(x);
}
template <class T>
FUSETAPE_HD T sin_of(T x) {
  return std::sin(x);
}
template <class T>
FUSETAPE_HD T cos_of(T x) {
  return std::cos(x);
}
template <class T>
FUSETAPE_HD T floor_of(T x) {
  return std::floor(x);
}
template <class T>
FUSETAPE_HD T rint_of(T x) {
  return std::rint(x);
}
template <class T>
FUSETAPE_HD T pow_of(T base, T exponent) {
  return std::pow(base, exponent);
}

/// √2 and 1/√(2π).
template <class T>
FUSETAPE_HD constexpr T sqrt_two() {
  return static_cast<T>(1.41421356237309504880);
}
template <class T>
FUSETAPE_HD constexpr T inverse_sqrt_two_pi() {
  return static_cast<T>(0.564189583547756286948 / 1.41421356237309504880);
}
/// Φ, the standard normal distribution, and its density φ.
template <class T>
FUSETAPE_HD T normal_distribution_of(T x) {
  return static_cast<T>(0.5) * std::erfc(-x / sqrt_two<T>());
}
template <class T>
FUSETAPE_HD T normal_density_of(T x) {
  return inverse_sqrt_two_pi<T>() * std::exp(static_cast<T>(-0.5) * x * x);
}

#define FUSETAPE_FORMULA \
  template <class T>     \
  FUSETAPE_HD T
#include "core/numerics/formulas.inc"
#undef FUSETAPE_FORMULA

}  // namespace fusetape::core::formulas
