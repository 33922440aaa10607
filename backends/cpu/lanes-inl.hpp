// A vector of floats as the T of the formulas that every backend shares, once for every target that
// foreach_target.h goes through.
#if defined(FUSETAPE_LANES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_LANES_INL
#undef FUSETAPE_LANES_INL
#else
#define FUSETAPE_LANES_INL
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V constant(float value) { return hn::Set(D(), value); }

struct Truths {
  hn::Mask<D> mask;
  friend HWY_INLINE Truths operator&&(Truths a, Truths b) { return {hn::And(a.mask, b.mask)}; }
  friend HWY_INLINE Truths operator||(Truths a, Truths b) { return {hn::Or(a.mask, b.mask)}; }
};

struct Lanes {
  V v;
  Lanes() = default;
  HWY_INLINE explicit Lanes(V vector) : v(vector) {}
  HWY_INLINE explicit Lanes(double number) : v(constant(static_cast<float>(number))) {}

  friend HWY_INLINE Lanes operator+(Lanes a, Lanes b) { return Lanes(hn::Add(a.v, b.v)); }
  friend HWY_INLINE Lanes operator-(Lanes a, Lanes b) { return Lanes(hn::Sub(a.v, b.v)); }
  friend HWY_INLINE Lanes operator*(Lanes a, Lanes b) { return Lanes(hn::Mul(a.v, b.v)); }
  friend HWY_INLINE Lanes operator/(Lanes a, Lanes b) { return Lanes(hn::Div(a.v, b.v)); }
  friend HWY_INLINE Lanes operator-(Lanes a) { return Lanes(hn::Neg(a.v)); }

  friend HWY_INLINE Truths operator==(Lanes a, Lanes b) { return {hn::Eq(a.v, b.v)}; }
  friend HWY_INLINE Truths operator!=(Lanes a, Lanes b) { return {hn::Not(hn::Eq(a.v, b.v))}; }
  friend HWY_INLINE Truths operator<(Lanes a, Lanes b) { return {hn::Lt(a.v, b.v)}; }
  friend HWY_INLINE Truths operator<=(Lanes a, Lanes b) { return {hn::Le(a.v, b.v)}; }
  friend HWY_INLINE Truths operator>(Lanes a, Lanes b) { return {hn::Gt(a.v, b.v)}; }
  friend HWY_INLINE Truths operator>=(Lanes a, Lanes b) { return {hn::Ge(a.v, b.v)}; }
};

HWY_INLINE Lanes select(Truths condition, Lanes a, Lanes b) {
  return Lanes(hn::IfThenElse(condition.mask, a.v, b.v));
}
HWY_INLINE Lanes sqrt_of(Lanes x) { return Lanes(hn::Sqrt(x.v)); }

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
