// From sums over tiles to the weight gradient, once for every target that foreach_target.h goes through.
#if defined(FUSETAPE_WINOGRAD_GRADIENT_RESULT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_GRADIENT_RESULT_INL
#undef FUSETAPE_WINOGRAD_GRADIENT_RESULT_INL
#else
#define FUSETAPE_WINOGRAD_GRADIENT_RESULT_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// The scale of each point that the transform of dy leaves out: 0, 1, −1, 2, −2, ∞.
inline constexpr float point_scale[6] = {1.0f / 4, -1.0f / 6, -1.0f / 6, 1.0f / 24, 1.0f / 24, 1.0f};

struct Three {
  Vec v[3];
};

HWY_INLINE Three from_points(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5) {
  const Floats d;
  const Vec even1 = hn::Add(m1, m2), odd1 = hn::Sub(m1, m2), even2 = hn::Add(m3, m4), odd2 = hn::Sub(m3, m4);
  return {hn::Add(m0, hn::Add(even1, even2)), hn::MulAdd(hn::Set(d, 2.0f), odd2, odd1),
          hn::MulAdd(hn::Set(d, 4.0f), even2, hn::Add(even1, m5))};
}

/// The sums at `sums`, of one out channel and a vector of in channels, to their nine weights, `step` elements
/// apart: the first to `first`, and the others on, or back.
template <class T, class Access>
HWY_INLINE void write_filter(const float* sums, const Access& access, T* first, std::int64_t step) {
  const Floats d;
  Three column[6];
  for (int j = 0; j < 6; ++j) {
    Vec m[6];
    for (int i = 0; i < 6; ++i) {
      const Vec sum = hn::Load(d, sums + (i * 6 + j) * 256);
      m[i] = hn::Mul(sum, hn::Set(d, point_scale[i] * point_scale[j]));
    }
    column[j] = from_points(m[0], m[1], m[2], m[3], m[4], m[5]);
  }
  for (int r = 0; r < 3; ++r) {
    const Three row = from_points(column[0].v[r], column[1].v[r], column[2].v[r], column[3].v[r],
                                  column[4].v[r], column[5].v[r]);
    for (int s = 0; s < 3; ++s) access.store(row.v[s], first + (r * 3 + s) * step);
  }
}

/// Past the cache: whole vectors at their alignment.
struct Streamed {
  static HWY_INLINE void store(Vec v, float* to) { hn::Stream(v, Floats(), to); }
};

/// Whether weights go past the cache: it would read what is then overwritten, and keep little of so much.
template <class T>
bool goes_past_cache(const T* dw, std::int64_t outs, std::int64_t ins) {
  constexpr std::int64_t many = 1 << 20;
  return std::is_same_v<T, float> && outs * 9 * ins >= many && ins % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(dw) % 64 == 0;
}

/// The filters of one out channel and up to 16 in channels, from dw on. `turned`: by half a circle.
template <class T>
HWY_INLINE void write_filters(const float* sums, std::int64_t channels, bool past_cache, bool turned, T* dw,
                              std::int64_t step) {
  if (turned) {
    dw += 8 * step;
    step = -step;
  }
  for (std::int64_t in = 0; in < channels; in += lanes) {
    if constexpr (std::is_same_v<T, float>) {
      if (past_cache) {
        write_filter(sums + in, Streamed{}, dw + in, step);
        continue;
      }
    }
    if (channels - in >= lanes) {
      write_filter(sums + in, Whole{}, dw + in, step);
    } else {
      write_filter(sums + in, Tail(channels - in), dw + in, step);
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_GRADIENT_RESULT_INL
