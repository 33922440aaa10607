#include "backends/cpu/optimizers_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/optimizers_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;
using Vec = hn::Vec<Floats>;

/// Calls body(load, store, i) for every vector of [begin, end), the last one masked.
template <class Body>
HWY_INLINE void for_vectors(std::int64_t begin, std::int64_t end, Body body) {
  const Floats d;
  constexpr auto lanes = static_cast<std::int64_t>(hn::MaxLanes(Floats()));
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    body([&](const float* from) HWY_ATTR { return hn::LoadU(d, from); },
         [&](Vec v, float* to) HWY_ATTR { hn::StoreU(v, d, to); }, i);
  }
  if (i < end) {
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(end - i));
    body([&](const float* from) HWY_ATTR { return hn::MaskedLoad(mask, d, from); },
         [&](Vec v, float* to) HWY_ATTR { hn::BlendedStore(v, mask, d, to); }, i);
  }
}

/// core::decayed.
struct VecDecay {
  Vec high, low;
  HWY_INLINE Vec operator()(Vec x, Vec more) const { return hn::MulAdd(high, x, hn::MulAdd(low, x, more)); }
};
HWY_INLINE VecDecay vec_decay(const core::Decay& decay) {
  return {hn::Set(Floats(), decay.high), hn::Set(Floats(), decay.low)};
}

template <bool Momentum>
void sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end) {
  const Floats d;
  const core::SgdFactors& f = span.factors;
  const Vec lr = hn::Set(d, f.lr), decay = hn::Set(d, f.weight_decay), scale = hn::Set(d, span.scale);
  const VecDecay momentum = vec_decay(f.momentum);
  for_vectors(begin, end, [&](auto load, auto store, std::int64_t i) HWY_ATTR {
    const Vec p = load(span.p + i);
    const Vec g = hn::Mul(load(span.g + i), scale);
    if (span.new_g != nullptr) store(g, span.new_g + i);
    Vec change = hn::MulAdd(decay, p, g);
    if constexpr (Momentum) {
      const Vec v = momentum(load(span.v + i), change);
      store(v, span.new_v + i);
      change = f.nesterov ? momentum(v, change) : v;
    }
    store(hn::NegMulAdd(lr, change, p), span.new_p + i);
  });
}

void Sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end) {
  span.v != nullptr ? sgd<true>(span, begin, end) : sgd<false>(span, begin, end);
}

void Adam(const AdamSpan& span, std::int64_t begin, std::int64_t end) {
  const Floats d;
  const core::AdamFactors& f = span.factors;
  const VecDecay beta1 = vec_decay(f.beta1), beta2 = vec_decay(f.beta2);
  const Vec rest1 = hn::Set(d, f.rest1), rest2 = hn::Set(d, f.rest2);
  const Vec step = hn::Set(d, f.step), eps = hn::Set(d, f.eps);
  const Vec decay = hn::Set(d, f.decay), shrink = hn::Set(d, f.shrink), scale = hn::Set(d, span.scale);
  for_vectors(begin, end, [&](auto load, auto store, std::int64_t i) HWY_ATTR {
    const Vec p = load(span.p + i);
    const Vec clipped = hn::Mul(load(span.g + i), scale);
    if (span.new_g != nullptr) store(clipped, span.new_g + i);
    const Vec g = hn::MulAdd(decay, p, clipped);
    const Vec m = beta1(load(span.m + i), hn::Mul(rest1, g));
    const Vec v = beta2(load(span.v + i), hn::Mul(rest2, hn::Mul(g, g)));
    const Vec ratio = hn::Div(m, hn::Add(hn::Sqrt(v), eps));
    store(m, span.new_m + i);
    store(v, span.new_v + i);
    store(hn::NegMulAdd(step, ratio, hn::NegMulAdd(shrink, p, p)), span.new_p + i);
  });
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu {

HWY_EXPORT(Sgd);
HWY_EXPORT(Adam);

void update_sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(Sgd)(span, begin, end);
}

void update_adam(const AdamSpan& span, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(Adam)(span, begin, end);
}

}  // namespace fusetape::backends::cpu
#endif  // HWY_ONCE
