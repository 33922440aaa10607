// Compiled once per instruction set; the best one is chosen at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/pointwise_blocks.cpp"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "backends/cpu/pointwise_formulas-inl.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
// clang-format on
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

// ---- conversions from float to float

struct Copy {
  static HWY_INLINE Lanes element(Lanes x) { return x; }
};
struct ToBool {
  static HWY_INLINE Lanes element(Lanes x) {
    return Lanes(hn::IfThenZeroElse(hn::Eq(x.v, hn::Zero(D())), constant(1.0f)));
  }
};
struct RoundBf16 {
  static HWY_INLINE Lanes element(Lanes x) { return Lanes(round_bf16_of(x.v)); }
};
struct RoundF16 {
  static HWY_INLINE Lanes element(Lanes x) { return Lanes(round_f16_of(x.v)); }
};

// ---- blocks

constexpr std::size_t max_lanes = HWY_MAX_BYTES / sizeof(float);
static_assert(max_lanes <= scalar_room);

HWY_INLINE Lanes load_lanes(const float* from) { return Lanes(hn::LoadU(D(), from)); }

template <class Op, int tensors, int numbers>
HWY_INLINE V apply(const BlockArgs& args, const float* a, const float* b, const float* c) {
  if constexpr (tensors == 1) {
    return with_numbers<Op, numbers>(args.numbers, load_lanes(a));
  } else if constexpr (tensors == 2) {
    return with_numbers<Op, numbers>(args.numbers, load_lanes(a), load_lanes(b));
  } else {
    return with_numbers<Op, numbers>(args.numbers, load_lanes(a), load_lanes(b), load_lanes(c));
  }
}

template <class Op, int tensors, int numbers, bool repeats>
HWY_INLINE void over_elements(const BlockArgs& block) {
  const BlockArgs args = block;  // a copy that no store can change
  const auto operand = [&](int i, std::size_t at) { return args.in[i] + (repeats ? at & args.mask[i] : at); };
  constexpr int b = tensors > 1 ? 1 : 0, c = tensors > 2 ? 2 : 0;
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= args.count; i += lanes) {
    hn::StoreU(apply<Op, tensors, numbers>(args, operand(0, i), operand(b, i), operand(c, i)), D(),
               args.out + i);
  }
  if (i == args.count) return;
  // The rest goes through the same vector code, so that an element's value does not depend on its place.
  HWY_ALIGN float rest[3][max_lanes] = {};
  const std::size_t bytes = (args.count - i) * sizeof(float);
  std::memcpy(rest[0], operand(0, i), bytes);
  std::memcpy(rest[1], operand(b, i), bytes);
  std::memcpy(rest[2], operand(c, i), bytes);
  hn::Store(apply<Op, tensors, numbers>(args, rest[0], rest[1], rest[2]), D(), rest[0]);
  std::memcpy(args.out + i, rest[0], bytes);
}

template <class Op, int tensors, int numbers>
void over_block(const BlockArgs& args) {
  if (args.repeats) return over_elements<Op, tensors, numbers, true>(args);
  over_elements<Op, tensors, numbers, false>(args);
}

BlockFunction function_of(const core::OpDef& op) {
#define FUSETAPE_BLOCK_ROW(name, tensors, numbers) \
  if (&op == &ops::name##_op) return over_block<name##_formula, tensors, numbers>;
  FUSETAPE_POINTWISE_OPS(FUSETAPE_BLOCK_ROW)
#undef FUSETAPE_BLOCK_ROW
  return nullptr;
}

BlockFunction conversion(Conversion code) {
  switch (code) {
    case Conversion::copy:
      return over_block<Copy, 1, 0>;
    case Conversion::to_bool:
      return over_block<ToBool, 1, 0>;
    case Conversion::round_bf16:
      return over_block<RoundBf16, 1, 0>;
    case Conversion::round_f16:
      return over_block<RoundF16, 1, 0>;
  }
  return nullptr;
}

// ---- conversions of elements

// One vector of elements at a time; `Load` and `Store` know the type.
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

HWY_EXPORT(function_of);
HWY_EXPORT(conversion);
HWY_EXPORT(load);
HWY_EXPORT(store);

BlockFunction block_function(const core::OpDef& op) { return HWY_DYNAMIC_DISPATCH(function_of)(op); }
BlockFunction block_function(Conversion code) { return HWY_DYNAMIC_DISPATCH(conversion)(code); }

void load_block(DType dtype, const void* from, float* to, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(load)(dtype, from, to, count);
}

void store_block(DType dtype, const float* from, void* to, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(store)(dtype, from, to, count);
}

}  // namespace fusetape::backends::cpu
#endif
