#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/host_device.hpp"

/// What one element of each pointwise op is (op_attrs.hpp), by the op's name: its operands, then its
/// attributes. The reference reads it with T = double; CUDA kernels, which are generated around this very
/// text, with T = float. So there is nothing in it but arithmetic and <cmath>.
namespace fusetape::core::formulas {

// ---- arithmetic ----

template <class T>
FUSETAPE_HD T add(T a, T b) {
  return a + b;
}
template <class T>
FUSETAPE_HD T sub(T a, T b) {
  return a - b;
}
template <class T>
FUSETAPE_HD T mul(T a, T b) {
  return a * b;
}
template <class T>
FUSETAPE_HD T div(T a, T b) {
  return a / b;
}
template <class T>
FUSETAPE_HD T pow(T base, T exponent) {
  return std::pow(base, exponent);
}
template <class T>
FUSETAPE_HD T bias_add(T x, T bias) {
  return x + bias;
}

template <class T>
FUSETAPE_HD T not_a_number() {
  return static_cast<T>(std::bit_cast<float>(std::uint32_t{0x7fc00000}));
}
template <class T>
FUSETAPE_HD T minimum(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return not_a_number<T>();
  return b < a ? b : a;
}
template <class T>
FUSETAPE_HD T maximum(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return not_a_number<T>();
  return b > a ? b : a;
}

template <class T>
FUSETAPE_HD T neg(T x) {
  return -x;
}
template <class T>
FUSETAPE_HD T abs(T x) {
  return std::abs(x);
}
template <class T>
FUSETAPE_HD T abs_grad(T g, T x) {
  if (x == 0) return 0;
  return x < 0 ? -g : g;
}
template <class T>
FUSETAPE_HD T exp(T x) {
  return std::exp(x);
}
template <class T>
FUSETAPE_HD T log(T x) {
  return std::log(x);
}
template <class T>
FUSETAPE_HD T sqrt(T x) {
  return std::sqrt(x);
}

template <class T>
FUSETAPE_HD T clamp(T x, T low, T high) {
  if (x < low) return low;
  return x > high ? high : x;
}
template <class T>
FUSETAPE_HD T clamp_grad(T g, T x, T low, T high) {
  return x > low && x < high ? g : 0;
}

// ---- comparisons, choices and conversions ----

template <class T>
FUSETAPE_HD T equal(T a, T b) {
  return a == b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T not_equal(T a, T b) {
  return a != b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T less(T a, T b) {
  return a < b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T less_equal(T a, T b) {
  return a <= b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T greater(T a, T b) {
  return a > b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T greater_equal(T a, T b) {
  return a >= b ? 1 : 0;
}
template <class T>
FUSETAPE_HD T where(T condition, T a, T b) {
  return condition != 0 ? a : b;
}
/// What is rounded is rounded where it is stored.
template <class T>
FUSETAPE_HD T cast(T x) {
  return x;
}
template <class T>
FUSETAPE_HD T broadcast_to(T x) {
  return x;
}

// ---- activations ----

template <class T>
FUSETAPE_HD T relu(T x) {
  return x <= 0 ? 0 : x;
}
/// The mask is on the stored output; a NaN passes its gradient.
template <class T>
FUSETAPE_HD T relu_grad(T g, T y) {
  return !(y <= 0) ? g : 0;
}

template <class T>
FUSETAPE_HD T leaky_relu(T x, T slope) {
  return x <= 0 ? slope * x : x;
}
template <class T>
FUSETAPE_HD T leaky_relu_grad(T g, T x, T slope) {
  return x <= 0 ? slope * g : g;
}

template <class T>
FUSETAPE_HD T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}
template <class T>
FUSETAPE_HD T sigmoid_grad(T g, T y) {
  return g * y * (1 - y);
}

template <class T>
FUSETAPE_HD T tanh(T x) {
  return std::tanh(x);
}
template <class T>
FUSETAPE_HD T tanh_grad(T g, T y) {
  return g * (1 - y * y);
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
FUSETAPE_HD T normal_distribution(T x) {
  return static_cast<T>(0.5) * std::erfc(-x / sqrt_two<T>());
}
template <class T>
FUSETAPE_HD T normal_density(T x) {
  return inverse_sqrt_two_pi<T>() * std::exp(static_cast<T>(-0.5) * x * x);
}
template <class T>
FUSETAPE_HD T gelu(T x) {
  return x * normal_distribution(x);
}
template <class T>
FUSETAPE_HD T gelu_grad(T g, T x) {
  return g * (normal_distribution(x) + x * normal_density(x));
}

// ---- losses ----

/// Of the logit x against the target t: log(1 + eˣ) − x·t, without overflow.
template <class T>
FUSETAPE_HD T bce_logits(T x, T t) {
  const T positive = x < 0 ? 0 : x;  // a NaN stays
  return positive - x * t + std::log1p(std::exp(-std::abs(x)));
}
template <class T>
FUSETAPE_HD T bce_logits_grad(T g, T x, T t) {
  return g * (sigmoid(x) - t);
}

}  // namespace fusetape::core::formulas
