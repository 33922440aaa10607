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

template <bool Momentum>
void sgd(const SgdSpan& span, std::int64_t begin, std::int64_t end) {
  const Floats d;
  const Vec lr = hn::Set(d, span.lr), decay = hn::Set(d, span.weight_decay),
            momentum = hn::Set(d, span.momentum), scale = hn::Set(d, span.scale);
  for_vectors(begin, end, [&](auto load, auto store, std::int64_t i) HWY_ATTR {
    const Vec p = load(span.p + i);
    const Vec g = hn::Mul(load(span.g + i), scale);
    if (span.new_g != nullptr) store(g, span.new_g + i);
    Vec change = hn::MulAdd(decay, p, g);
    if constexpr (Momentum) {
      const Vec v = hn::MulAdd(momentum, load(span.v + i), change);
      store(v, span.new_v + i);
      change = span.nesterov ? hn::MulAdd(momentum, v, change) : v;
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
  const Vec step = hn::Set(d, f.step), eps = hn::Set(d, f.eps), root = hn::Set(d, f.root);
  const Vec beta1 = hn::Set(d, f.beta1), rest1 = hn::Set(d, f.rest1);
  const Vec beta2 = hn::Set(d, f.beta2), rest2 = hn::Set(d, f.rest2);
  const Vec decay = hn::Set(d, f.decay), keep = hn::Set(d, f.keep), scale = hn::Set(d, span.scale);
  for_vectors(begin, end, [&](auto load, auto store, std::int64_t i) HWY_ATTR {
    const Vec p = load(span.p + i);
    const Vec clipped = hn::Mul(load(span.g + i), scale);
    if (span.new_g != nullptr) store(clipped, span.new_g + i);
    const Vec g = hn::MulAdd(decay, p, clipped);
    const Vec m = hn::MulAdd(beta1, load(span.m + i), hn::Mul(rest1, g));
    const Vec v = hn::MulAdd(beta2, load(span.v + i), hn::Mul(rest2, hn::Mul(g, g)));
    const Vec ratio = hn::Div(m, hn::MulAdd(hn::Sqrt(v), root, eps));
    store(m, span.new_m + i);
    store(v, span.new_v + i);
    store(hn::NegMulAdd(step, ratio, hn::Mul(keep, p)), span.new_p + i);
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
