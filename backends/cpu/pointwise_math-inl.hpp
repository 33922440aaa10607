// The element functions of pointwise programs and softmax, once for every target that foreach_target.h goes
// through.
#if defined(FUSETAPE_POINTWISE_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_POINTWISE_MATH_INL
#undef FUSETAPE_POINTWISE_MATH_INL
#else
#define FUSETAPE_POINTWISE_MATH_INL
#endif

#include <cmath>

#include "backends/cpu/lanes-inl.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

HWY_INLINE V vector_exp(V x) {
  // Highway's Exp is made for [-FLT_MAX, 104]; it gives 0 and infinity for what is far out on either side.
  const V y = hn::Exp(D(), hn::Min(hn::Max(x, constant(-200.0f)), constant(100.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

/// 1/(1 + e⁻ˣ). A sigmoid needs less of e⁻ˣ than others do: where it is denormal, 1 is all that is left, and
/// where it overflows, 0. So a product with 2ⁿ scales it, n between −126 and 128, and the whole is half as
/// long as with Highway's Exp, whose polynomial this is. Within 2.5 ulp, measured between −87 and 90.
HWY_INLINE V vector_sigmoid(V x) {
  const hn::RebindToUnsigned<D> bits;
  // A NaN is the second operand, which x86 returns then.
  const V z = hn::Min(constant(89.0f), hn::Max(constant(-87.0f), hn::Neg(x)));
  const V magic = constant(12582912.0f);  // 1.5·2²³: a sum with it is rounded to a whole number
  const V t = hn::MulAdd(z, constant(1.44269504f), magic), n = hn::Sub(t, magic);
  const V r =
      hn::MulAdd(n, constant(-1.428606765330187e-6f), hn::MulAdd(n, constant(-0.693145751953125f), z));
  const V r2 = hn::Mul(r, r);
  const V low = hn::MulAdd(r, constant(0.16666667f), constant(0.5f));
  const V middle = hn::MulAdd(r, constant(0.0083333608f), constant(0.041666485f));
  const V high = hn::MulAdd(r, constant(0.00019852762f), constant(0.0013930430f));
  const V p = hn::MulAdd(r2, hn::MulAdd(r2, hn::MulAdd(r2, high, middle), low), r);
  const V scale = hn::BitCast(D(), hn::ShiftLeft<23>(hn::Add(hn::BitCast(bits, t), hn::Set(bits, 127u))));
  const V one = constant(1.0f);
  return hn::Div(one, hn::MulAdd(hn::Add(one, p), scale, one));
}

HWY_INLINE V vector_log(V x) {
  const V zero = hn::Zero(D());
  const V infinity = constant(HUGE_VALF);
  V y = hn::Log(D(), x);
  y = hn::IfThenElse(hn::Eq(x, zero), hn::Neg(infinity), y);
  y = hn::IfThenElse(hn::Lt(x, zero), constant(std::nanf("")), y);
  return hn::IfThenElse(hn::Or(hn::IsNaN(x), hn::Eq(x, infinity)), x, y);
}

/// log(1 + x)·x/((1 + x) − 1): the quotient takes back what 1 + x has rounded away (Kahan).
HWY_INLINE V vector_log1p(V x) {
  const V one = constant(1), y = hn::Add(x, one);
  const auto rounded_away = hn::Eq(y, one), infinite = hn::IsInf(y);
  const V ratio = hn::Div(x, hn::Sub(y, one));
  return hn::IfThenElse(rounded_away, x, hn::Mul(vector_log(y), hn::IfThenElse(infinite, one, ratio)));
}

/// Highway's are exact within ±39000 only; beyond, and where nothing is a number, the standard library's.
template <class Vector, class Scalar>
HWY_INLINE V within_turns(V x, Vector vector, Scalar scalar) {
  const D d;
  if (HWY_LIKELY(hn::AllTrue(d, hn::Le(hn::Abs(x), constant(39000))))) return vector(x);
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  hn::Store(x, d, lanes);
  for (float& lane : lanes) lane = scalar(lane);
  return hn::Load(d, lanes);
}
HWY_INLINE V vector_sin(V x) {
  return within_turns(
      x, [](V v) HWY_ATTR { return hn::Sin(D(), v); }, [](float e) { return std::sin(e); });
}
HWY_INLINE V vector_cos(V x) {
  return within_turns(
      x, [](V v) HWY_ATTR { return hn::Cos(D(), v); }, [](float e) { return std::cos(e); });
}

HWY_INLINE V vector_tanh(V x) {
  const V y = hn::Tanh(D(), hn::Min(hn::Max(x, constant(-20.0f)), constant(20.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

HWY_INLINE V vector_expm1(V x) {
  const V y = hn::Expm1(D(), hn::Min(hn::Max(x, constant(-200.0f)), constant(100.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

/// e^(−u²)·t·P(t) with t = 1/(1 + u/2) is erfc(u) for u ≥ 0 within 2.3e-7 relative; P was fitted by least
/// squares.
HWY_INLINE V erfc_polynomial(V u) {
  const V one = constant(1.0f);
  const V t = hn::Div(one, hn::MulAdd(u, constant(0.5f), one));
  V p = constant(-0.05906914919614792f);
  p = hn::MulAdd(p, t, constant(0.28457584977149963f));
  p = hn::MulAdd(p, t, constant(-0.4872017204761505f));
  p = hn::MulAdd(p, t, constant(0.2780691683292389f));
  p = hn::MulAdd(p, t, constant(-0.02662699855864048f));
  p = hn::MulAdd(p, t, constant(0.20268741250038147f));
  p = hn::MulAdd(p, t, constant(0.24310363829135895f));
  p = hn::MulAdd(p, t, constant(0.2823753356933594f));
  p = hn::MulAdd(p, t, constant(0.28208640217781067f));
  return hn::Mul(p, t);
}

/// e^(−x²/2)
HWY_INLINE V gaussian(V x) { return vector_exp(hn::Mul(hn::Mul(x, x), constant(-0.5f))); }

/// Φ(x)
HWY_INLINE V normal_distribution(V x) {
  const V u = hn::Min(hn::Mul(hn::Abs(x), constant(0.70710678f)), constant(20.0f));
  const V tail = hn::Mul(hn::Mul(constant(0.5f), erfc_polynomial(u)), gaussian(x));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(D())), tail, hn::Sub(constant(1.0f), tail));
}

/// f of each lane, for what has no vector code.
template <class Function>
HWY_INLINE V by_lane(V a, V b, Function f) {
  HWY_ALIGN float x[HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN float y[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(a, D(), x);
  hn::Store(b, D(), y);
  for (std::size_t i = 0; i < hn::Lanes(D()); ++i) x[i] = f(x[i], y[i]);
  return hn::Load(D(), x);
}

HWY_INLINE V vector_pow(V base, V exponent) {
  // Squares are common; a lane's value must not depend on its neighbours, so they are exact in mixed vectors
  // too.
  const V square = hn::Mul(base, base);
  const auto two = hn::Eq(exponent, constant(2.0f));
  if (hn::AllTrue(D(), two)) return square;
  const V y = by_lane(base, exponent, [](float b, float e) { return std::pow(b, e); });
  return hn::IfThenElse(two, square, y);
}

/// Rounded to the 8 significant bits of bf16, to nearest even; NaN stays NaN.
HWY_INLINE V round_bf16_of(V x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const V y = hn::IfThenElse(hn::IsNaN(x), hn::BitCast(D(), quiet), hn::BitCast(D(), rounded));
  return hn::BitCast(D(), hn::And(hn::BitCast(du, y), hn::Set(du, 0xFFFF0000u)));
}

HWY_INLINE V round_f16_of(V x) {
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(D(), hn::DemoteTo(dh, x));
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
