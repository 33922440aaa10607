// Compiled once per instruction set; the best one is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/pointwise_blocks.cpp"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "backends/cpu/pointwise_math-inl.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
// clang-format on
#include <array>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

// clang-format off
// One operand.
struct Copy { static HWY_INLINE V of(const BlockArgs&, V x) { return x; } };
struct ToBool {
  static HWY_INLINE V of(const BlockArgs&, V x) {
    return hn::IfThenZeroElse(hn::Eq(x, hn::Zero(D())), constant(1.0f));
  }
};
struct RoundBf16 { static HWY_INLINE V of(const BlockArgs&, V x) { return round_bf16_of(x); } };
struct RoundF16 { static HWY_INLINE V of(const BlockArgs&, V x) { return round_f16_of(x); } };
struct Neg { static HWY_INLINE V of(const BlockArgs&, V x) { return hn::Neg(x); } };
struct Abs { static HWY_INLINE V of(const BlockArgs&, V x) { return hn::Abs(x); } };
struct Exp { static HWY_INLINE V of(const BlockArgs&, V x) { return exp_of(x); } };
struct Log { static HWY_INLINE V of(const BlockArgs&, V x) { return log_of(x); } };
struct Sqrt { static HWY_INLINE V of(const BlockArgs&, V x) { return hn::Sqrt(x); } };
struct Sigmoid { static HWY_INLINE V of(const BlockArgs&, V x) { return sigmoid_of(x); } };
struct Tanh { static HWY_INLINE V of(const BlockArgs&, V x) { return tanh_of(x); } };
// clang-format on
struct Relu {
  static HWY_INLINE V of(const BlockArgs&, V x) { return hn::IfThenZeroElse(hn::Le(x, hn::Zero(D())), x); }
};
struct Gelu {
  static HWY_INLINE V of(const BlockArgs&, V x) {
    V gaussian;
    return hn::Mul(x, normal_cdf(x, gaussian));
  }
};
struct Clamp {
  static HWY_INLINE V of(const BlockArgs& args, V x) {
    const V low = constant(args.numbers[0]);
    const V high = constant(args.numbers[1]);
    return hn::IfThenElse(hn::Lt(x, low), low, hn::IfThenElse(hn::Gt(x, high), high, x));
  }
};
struct LeakyRelu {
  static HWY_INLINE V of(const BlockArgs& args, V x) {
    return hn::IfThenElse(hn::Le(x, hn::Zero(D())), hn::Mul(constant(args.numbers[0]), x), x);
  }
};

// clang-format off
// Two operands.
struct AddOf { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return hn::Add(a, b); } };
struct SubOf { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return hn::Sub(a, b); } };
struct MulOf { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return hn::Mul(a, b); } };
struct DivOf { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return hn::Div(a, b); } };
struct PowOf { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return pow_of(a, b); } };
// clang-format on
struct Minimum {
  static HWY_INLINE V of(const BlockArgs&, V a, V b) {
    return hn::IfThenElse(hn::Or(hn::Lt(b, a), hn::IsNaN(b)), b, a);
  }
};
struct Maximum {
  static HWY_INLINE V of(const BlockArgs&, V a, V b) {
    return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
  }
};
struct ReluGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V y) {
    return hn::IfThenZeroElse(hn::Le(y, hn::Zero(D())), g);
  }
};
struct SigmoidGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V y) {
    return hn::Mul(hn::Mul(g, y), hn::Sub(constant(1.0f), y));
  }
};
struct TanhGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V y) {
    return hn::Mul(g, hn::Sub(constant(1.0f), hn::Mul(y, y)));
  }
};
struct GeluGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V x) {
    V gaussian;
    const V cdf = normal_cdf(x, gaussian);
    return hn::Mul(g, hn::Add(cdf, hn::Mul(hn::Mul(x, gaussian), constant(0.39894228f))));
  }
};
struct AbsGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V x) {
    const V zero = hn::Zero(D());
    return hn::IfThenZeroElse(hn::Eq(x, zero), hn::IfThenElse(hn::Lt(x, zero), hn::Neg(g), g));
  }
};
struct ClampGrad {
  static HWY_INLINE V of(const BlockArgs& args, V g, V x) {
    const auto inside = hn::And(hn::Gt(x, constant(args.numbers[0])), hn::Lt(x, constant(args.numbers[1])));
    return hn::IfThenElseZero(inside, g);
  }
};
struct LeakyReluGrad {
  static HWY_INLINE V of(const BlockArgs& args, V g, V x) {
    return hn::IfThenElse(hn::Le(x, hn::Zero(D())), hn::Mul(constant(args.numbers[0]), g), g);
  }
};
template <class M>
HWY_INLINE V truth(M mask) {
  return hn::IfThenElseZero(mask, constant(1.0f));
}
// clang-format off
struct Equal { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Eq(a, b)); } };
struct NotEqual { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Not(hn::Eq(a, b))); } };
struct Less { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Lt(a, b)); } };
struct LessEqual { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Le(a, b)); } };
struct Greater { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Gt(a, b)); } };
struct GreaterEqual { static HWY_INLINE V of(const BlockArgs&, V a, V b) { return truth(hn::Ge(a, b)); } };
// clang-format on
struct BceLogits {
  static HWY_INLINE V of(const BlockArgs& args, V x, V t) {
    const V softplus = hn::Log1p(D(), exp_of(hn::Neg(hn::Abs(x))));
    return hn::Add(hn::Sub(Relu::of(args, x), hn::Mul(x, t)), softplus);
  }
};

// Three operands.
struct Where {
  static HWY_INLINE V of(const BlockArgs&, V condition, V a, V b) {
    return hn::IfThenElse(hn::Eq(condition, hn::Zero(D())), b, a);
  }
};
struct BceLogitsGrad {
  static HWY_INLINE V of(const BlockArgs&, V g, V x, V t) { return hn::Mul(g, hn::Sub(sigmoid_of(x), t)); }
};

constexpr std::size_t max_lanes = HWY_MAX_BYTES / sizeof(float);
static_assert(max_lanes <= scalar_room);

template <class Op, int operands>
HWY_INLINE V apply(const BlockArgs& args, const float* a, const float* b, const float* c) {
  if constexpr (operands == 1) {
    return Op::of(args, hn::LoadU(D(), a));
  } else if constexpr (operands == 2) {
    return Op::of(args, hn::LoadU(D(), a), hn::LoadU(D(), b));
  } else {
    return Op::of(args, hn::LoadU(D(), a), hn::LoadU(D(), b), hn::LoadU(D(), c));
  }
}

template <class Op, int operands, bool repeats>
HWY_INLINE void over_elements(const BlockArgs& block) {
  const BlockArgs args = block;  // a copy that no store can change
  const auto operand = [&](int i, std::size_t at) { return args.in[i] + (repeats ? at & args.mask[i] : at); };
  constexpr int b = operands > 1 ? 1 : 0, c = operands > 2 ? 2 : 0;
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= args.count; i += lanes) {
    hn::StoreU(apply<Op, operands>(args, operand(0, i), operand(b, i), operand(c, i)), D(), args.out + i);
  }
  if (i == args.count) return;
  // The rest goes through the same vector code, so that an element's value does not depend on its place.
  HWY_ALIGN float rest[3][max_lanes] = {};
  const std::size_t bytes = (args.count - i) * sizeof(float);
  std::memcpy(rest[0], operand(0, i), bytes);
  std::memcpy(rest[1], operand(b, i), bytes);
  std::memcpy(rest[2], operand(c, i), bytes);
  hn::Store(apply<Op, operands>(args, rest[0], rest[1], rest[2]), D(), rest[0]);
  std::memcpy(args.out + i, rest[0], bytes);
}

template <class Op, int operands>
void over_block(const BlockArgs& args) {
  if (args.repeats) return over_elements<Op, operands, true>(args);
  over_elements<Op, operands, false>(args);
}

const BlockFunction* table() {
  static constexpr std::array<BlockFunction, static_cast<std::size_t>(Code::count_)> functions = {
      over_block<Copy, 1>,      over_block<ToBool, 1>,        over_block<RoundBf16, 1>,
      over_block<RoundF16, 1>,  over_block<Neg, 1>,           over_block<Abs, 1>,
      over_block<Exp, 1>,       over_block<Log, 1>,           over_block<Sqrt, 1>,
      over_block<Relu, 1>,      over_block<Sigmoid, 1>,       over_block<Tanh, 1>,
      over_block<Gelu, 1>,      over_block<Clamp, 1>,         over_block<LeakyRelu, 1>,
      over_block<AddOf, 2>,     over_block<SubOf, 2>,         over_block<MulOf, 2>,
      over_block<DivOf, 2>,     over_block<PowOf, 2>,         over_block<Minimum, 2>,
      over_block<Maximum, 2>,   over_block<ReluGrad, 2>,      over_block<SigmoidGrad, 2>,
      over_block<TanhGrad, 2>,  over_block<GeluGrad, 2>,      over_block<AbsGrad, 2>,
      over_block<ClampGrad, 2>, over_block<LeakyReluGrad, 2>, over_block<Equal, 2>,
      over_block<NotEqual, 2>,  over_block<Less, 2>,          over_block<LessEqual, 2>,
      over_block<Greater, 2>,   over_block<GreaterEqual, 2>,  over_block<BceLogits, 2>,
      over_block<Where, 3>,     over_block<BceLogitsGrad, 3>};
  return functions.data();
}

// Conversions, one vector of elements at a time; `Load` and `Store` know the type.
struct ByteType {
  using T = std::uint8_t;
  static HWY_INLINE V load(const T* from) {
    const auto bytes = hn::LoadU(hn::Rebind<T, D>(), from);
    return hn::ConvertTo(D(), hn::PromoteTo(hn::Rebind<std::int32_t, D>(), bytes));
  }
  static HWY_INLINE void store(V x, T* to) {
    const hn::Rebind<T, D> d;
    hn::StoreU(hn::DemoteTo(d, hn::NearestInt(x)), d, to);
  }
};
struct Bf16Type {
  using T = std::uint16_t;
  static HWY_INLINE V load(const T* from) {
    const hn::RebindToUnsigned<D> du;
    return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(hn::Rebind<T, D>(), from))));
  }
  static HWY_INLINE void store(V x, T* to) {
    const hn::Rebind<T, D> d;
    const hn::Rebind<std::int32_t, D> di;
    const auto bits = hn::ShiftRight<16>(hn::BitCast(hn::RebindToUnsigned<D>(), round_bf16_of(x)));
    hn::StoreU(hn::DemoteTo(d, hn::BitCast(di, bits)), d, to);
  }
};
struct F16Type {
  using T = hwy::float16_t;
  static HWY_INLINE V load(const T* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<T, D>(), from)); }
  static HWY_INLINE void store(V x, T* to) {
    const hn::Rebind<T, D> d;
    hn::StoreU(hn::DemoteTo(d, x), d, to);
  }
};

template <class Type>
void load_elements(const void* from, float* to, std::size_t count) {
  const auto* elements = static_cast<const typename Type::T*>(from);
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(Type::load(elements + i), D(), to + i);
  if (i == count) return;
  typename Type::T rest[max_lanes] = {};
  float converted[max_lanes];
  std::memcpy(rest, elements + i, (count - i) * sizeof(rest[0]));
  hn::StoreU(Type::load(rest), D(), converted);
  std::memcpy(to + i, converted, (count - i) * sizeof(float));
}

template <class Type>
void store_elements(const float* from, void* to, std::size_t count) {
  auto* elements = static_cast<typename Type::T*>(to);
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) Type::store(hn::LoadU(D(), from + i), elements + i);
  if (i == count) return;
  float rest[max_lanes] = {};
  typename Type::T converted[max_lanes];
  std::memcpy(rest, from + i, (count - i) * sizeof(float));
  Type::store(hn::LoadU(D(), rest), converted);
  std::memcpy(elements + i, converted, (count - i) * sizeof(converted[0]));
}

void load(DType dtype, const void* from, float* to, std::size_t count) {
  switch (dtype) {
    case DType::u8:
    case DType::boolean:
      load_elements<ByteType>(from, to, count);
      return;
    case DType::bf16:
      load_elements<Bf16Type>(from, to, count);
      return;
    case DType::f16:
      load_elements<F16Type>(from, to, count);
      return;
    case DType::i64:
      for (std::size_t i = 0; i < count; ++i)
        to[i] = static_cast<float>(static_cast<const std::int64_t*>(from)[i]);
      return;
    case DType::f64:
      for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<const double*>(from)[i]);
      return;
    case DType::f32:
      std::memcpy(to, from, count * sizeof(float));
      return;
  }
}

void store(DType dtype, const float* from, void* to, std::size_t count) {
  switch (dtype) {
    case DType::u8:
    case DType::boolean:
      store_elements<ByteType>(from, to, count);
      return;
    case DType::bf16:
      store_elements<Bf16Type>(from, to, count);
      return;
    case DType::f16:
      store_elements<F16Type>(from, to, count);
      return;
    case DType::i64:
      for (std::size_t i = 0; i < count; ++i)
        static_cast<std::int64_t*>(to)[i] = static_cast<std::int64_t>(from[i]);
      return;
    case DType::f64:
      for (std::size_t i = 0; i < count; ++i) static_cast<double*>(to)[i] = from[i];
      return;
    case DType::f32:
      std::memcpy(to, from, count * sizeof(float));
      return;
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu {

HWY_EXPORT(table);
HWY_EXPORT(load);
HWY_EXPORT(store);

const BlockFunction* block_functions() { return HWY_DYNAMIC_DISPATCH(table)(); }

void load_block(DType dtype, const void* from, float* to, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(load)(dtype, from, to, count);
}

void store_block(DType dtype, const float* from, void* to, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(store)(dtype, from, to, count);
}

}  // namespace fusetape::backends::cpu
#endif
