#include "backends/cpu/update/optimizers_simd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/update/optimizers_simd.cpp"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "backends/cpu/lanes-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::update::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

HWY_INLINE Lanes product_plus(Lanes a, Lanes b, Lanes c) { return Lanes(hn::MulAdd(a.v, b.v, c.v)); }
HWY_INLINE Lanes minus_product(Lanes c, Lanes a, Lanes b) { return Lanes(hn::NegMulAdd(a.v, b.v, c.v)); }

namespace updates {

#define FUSETAPE_UPDATE HWY_INLINE
#include "core/numerics/update_formulas.inc"
#undef FUSETAPE_UPDATE

}  // namespace updates

/// Calls body(load, store, i) for every vector of [begin, end), the last one masked.
template <class Body>
HWY_INLINE void for_vectors(std::int64_t begin, std::int64_t end, Body body) {
  const D d;
  constexpr auto lanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
  std::int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    body([&](const float* from) HWY_ATTR { return Lanes(hn::LoadU(d, from)); },
         [&](Lanes x, float* to) HWY_ATTR { hn::StoreU(x.v, d, to); }, i);
  }
  if (i < end) {
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(end - i));
    body([&](const float* from) HWY_ATTR { return Lanes(hn::MaskedLoad(mask, d, from)); },
         [&](Lanes x, float* to) HWY_ATTR { hn::BlendedStore(x.v, mask, d, to); }, i);
  }
}

template <class U, int variant>
void update_elements(const typename U::Scalars& scalars, const UpdateSpan& span, std::int64_t begin,
                     std::int64_t end) {
  constexpr std::size_t states = U::states(variant);
  const auto factors = U::template factors<Lanes>(scalars);
  const Lanes scale(span.scale);
  const PerUpdateTensor<const float*> in = span.in;
  const PerUpdateTensor<float*> out = span.out;
  for_vectors(begin, end, [&](auto load, auto store, std::int64_t i) HWY_ATTR {
    Lanes p = load(in[0] + i), state[states + 1];
    const Lanes g = load(in[1] + i) * scale;
    for (std::size_t s = 0; s < states; ++s) state[s] = load(in[2 + s] + i);
    U::template update<variant>(factors, p, g, state);
    if (out[1] != nullptr) store(g, out[1] + i);
    for (std::size_t s = 0; s < states; ++s) store(state[s], out[2 + s] + i);
    store(p, out[0] + i);
  });
}

template <class U>
void run_as(const KernelArgs& args, const Update& update, const UpdateSpan& span, std::int64_t begin,
            std::int64_t end) {
  const auto scalars = core::updates::read_scalars<U>(
      [&](int i) { return *args.in<double>(update.scalars[static_cast<std::size_t>(i)]); });
  core::updates::with_variant<U>(update.variant, [&](auto variant) {
    update_elements<U, decltype(variant)::value>(scalars, span, begin, end);
  });
}

void RunUpdate(const KernelArgs& args, const Update& update, const UpdateSpan& span, std::int64_t begin,
               std::int64_t end) {
#define FUSETAPE_RUN_UPDATE(name) \
  if (update.op == &ops::name##_op) run_as<updates::name>(args, update, span, begin, end);
  FUSETAPE_UPDATE_OPS(FUSETAPE_RUN_UPDATE)
#undef FUSETAPE_RUN_UPDATE
}

}  // namespace
}  // namespace fusetape::backends::cpu::update::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::update {

HWY_EXPORT(RunUpdate);

void run_update(const KernelArgs& args, const Update& update, const UpdateSpan& span, std::int64_t begin,
                std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(RunUpdate)(args, update, span, begin, end);
}

}  // namespace fusetape::backends::cpu::update
#endif  // HWY_ONCE
