#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/numerics/formulas.hpp"

/// The updates of optimizers on numbers, and what else is to be known of an update.
namespace fusetape::core::updates {

using formulas::select;
using formulas::sqrt_of;

FUSETAPE_HD inline float product_plus(float a, float b, float c) { return std::fma(a, b, c); }
FUSETAPE_HD inline float minus_product(float c, float a, float b) { return std::fma(-a, b, c); }
FUSETAPE_HD inline double product_plus(double a, double b, double c) { return a * b + c; }
FUSETAPE_HD inline double minus_product(double c, double a, double b) { return c - a * b; }

#define FUSETAPE_UPDATE FUSETAPE_HD
#include "core/numerics/update_formulas.inc"
#undef FUSETAPE_UPDATE

/// A double needs no second one.
template <>
struct Decay<double> {
  double factor;

  static Decay of(double factor) { return {factor}; }
  double operator()(double x, double more) const { return factor * x + more; }
};

template <class U>
inline constexpr int scalars_of = sizeof(typename U::Scalars) / sizeof(double);

/// at(i) is scalar i.
template <class U, class At>
FUSETAPE_HD typename U::Scalars read_scalars(At at) {
  double numbers[scalars_of<U>];
  for (int i = 0; i < scalars_of<U>; ++i) numbers[i] = at(i);
  typename U::Scalars scalars;
  memcpy(&scalars, numbers, sizeof scalars);
  return scalars;
}

/// Of all variants of an update, or of all updates.
template <class U>
constexpr int most_states() {
  int most = 0;
  for (int variant = 0; variant < U::variants; ++variant) {
    if (U::states(variant) > most) most = U::states(variant);
  }
  return most;
}
constexpr int most_states() {
  int most = 0;
#define FUSETAPE_STATES_OF(name) \
  if (most_states<name>() > most) most = most_states<name>();
  FUSETAPE_UPDATE_OPS(FUSETAPE_STATES_OF)
#undef FUSETAPE_STATES_OF
  return most;
}

/// Calls f with the variant as a type, an std::integral_constant.
template <class U, int variant = 0, class F>
FUSETAPE_HD void with_variant(int which, F f) {
  if (which == variant) return f(std::integral_constant<int, variant>());
  if constexpr (variant + 1 < U::variants) with_variant<U, variant + 1>(which, f);
}

}  // namespace fusetape::core::updates
