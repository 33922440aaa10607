// What one element of each pointwise op is (core/numerics/formulas.inc), on vectors, once for every target
// that foreach_target.h goes through.
#if defined(FUSETAPE_POINTWISE_FORMULAS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_POINTWISE_FORMULAS_INL
#undef FUSETAPE_POINTWISE_FORMULAS_INL
#else
#define FUSETAPE_POINTWISE_FORMULAS_INL
#endif

#include <array>

#include "backends/cpu/pointwise_math-inl.hpp"
#include "core/op/op_list.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

namespace formulas {

HWY_INLINE Truths is_nan(Lanes x) { return {hn::IsNaN(x.v)}; }
HWY_INLINE Lanes abs_of(Lanes x) { return Lanes(hn::Abs(x.v)); }
HWY_INLINE Lanes exp_of(Lanes x) { return Lanes(vector_exp(x.v)); }
HWY_INLINE Lanes sigmoid_of(Lanes x) { return Lanes(vector_sigmoid(x.v)); }
HWY_INLINE Lanes expm1_of(Lanes x) { return Lanes(vector_expm1(x.v)); }
HWY_INLINE Lanes log_of(Lanes x) { return Lanes(vector_log(x.v)); }
HWY_INLINE Lanes log1p_of(Lanes x) { return Lanes(vector_log1p(x.v)); }
HWY_INLINE Lanes tanh_of(Lanes x) { return Lanes(vector_tanh(x.v)); }
HWY_INLINE Lanes sin_of(Lanes x) { return Lanes(vector_sin(x.v)); }
HWY_INLINE Lanes cos_of(Lanes x) { return Lanes(vector_cos(x.v)); }
HWY_INLINE Lanes floor_of(Lanes x) { return Lanes(hn::Floor(x.v)); }
HWY_INLINE Lanes rint_of(Lanes x) { return Lanes(hn::Round(x.v)); }
HWY_INLINE Lanes pow_of(Lanes base, Lanes exponent) { return Lanes(vector_pow(base.v, exponent.v)); }
HWY_INLINE Lanes normal_distribution_of(Lanes x) { return Lanes(normal_distribution(x.v)); }
HWY_INLINE Lanes normal_density_of(Lanes x) { return Lanes(hn::Mul(gaussian(x.v), constant(0.39894228f))); }

// Here and not in a header: what is inlined has to be compiled for the same instruction set.
#define FUSETAPE_FORMULA \
  template <class T>     \
  HWY_INLINE T
#include "core/numerics/formulas.inc"
#undef FUSETAPE_FORMULA

}  // namespace formulas

#define FUSETAPE_BLOCK_OP(name, tensors, numbers)    \
  struct name##_formula {                            \
    template <class... T>                            \
    static HWY_INLINE Lanes element(T... operands) { \
      return formulas::name(operands...);            \
    }                                                \
  };
FUSETAPE_POINTWISE_OPS(FUSETAPE_BLOCK_OP)
#undef FUSETAPE_BLOCK_OP

/// Of the operands, and of the op's numbers.
template <class Op, int numbers, class... T>
HWY_INLINE V with_numbers(const std::array<float, 2>& values, T... operands) {
  if constexpr (numbers == 0) {
    return Op::element(operands...).v;
  } else if constexpr (numbers == 1) {
    return Op::element(operands..., Lanes(values[0])).v;
  } else {
    return Op::element(operands..., Lanes(values[0]), Lanes(values[1])).v;
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
