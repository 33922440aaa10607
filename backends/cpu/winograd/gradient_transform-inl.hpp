// The dy side and the result of the Winograd weight gradient F(3×3, 4×4), once for every target that
// foreach_target.h goes through. Points 0, ±1, ±2, ∞; the transform of dy leaves out the scale of each point,
// which the inverse transform makes good.
#if defined(FUSETAPE_GRADIENT_TRANSFORM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_GRADIENT_TRANSFORM_INL
#undef FUSETAPE_GRADIENT_TRANSFORM_INL
#else
#define FUSETAPE_GRADIENT_TRANSFORM_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

struct Two {
  Vec first, second;
};

/// Two of the six rows that a column of four numbers becomes: those of ±1, of ±2, or of 0 and ∞.
template <int Pair>
HWY_INLINE Two spread(Vec d0, Vec d1, Vec d2, Vec d3) {
  if constexpr (Pair == 2) return {d0, d3};
  if constexpr (Pair == 1) {
    const Vec four = hn::Set(Floats(), 4.0F), two = hn::Set(Floats(), 2.0F);
    const Vec even = hn::MulAdd(four, d2, d0), odd = hn::MulAdd(four, d3, d1);
    return {hn::MulAdd(two, odd, even), hn::NegMulAdd(two, odd, even)};
  }
  const Vec even = hn::Add(d0, d2), odd = hn::Add(d1, d3);
  return {hn::Add(even, odd), hn::Sub(even, odd)};
}

/// Six positions of a row, `stride` apart.
HWY_INLINE void store_spread(Vec d0, Vec d1, Vec d2, Vec d3, float* to, std::int64_t stride) {
  const Two ones = spread<0>(d0, d1, d2, d3), twos = spread<1>(d0, d1, d2, d3);
  const Floats d;
  hn::Store(d0, d, to);
  hn::Store(ones.first, d, to + stride);
  hn::Store(ones.second, d, to + 2 * stride);
  hn::Store(twos.first, d, to + 3 * stride);
  hn::Store(twos.second, d, to + 4 * stride);
  hn::Store(d3, d, to + 5 * stride);
}

/// The 12 positions of a pair of rows, of `tiles` tiles side by side: a tile's vectors go to to[position ·
/// stride + tile · 16].
template <int Pair>
HWY_INLINE void transform_gradient_pair(const float* const* rows, std::int64_t pixel, std::int64_t tiles,
                                        float* to, std::int64_t stride) {
  const Floats d;
  for (std::int64_t tile = 0; tile < tiles; ++tile, to += 16) {
    Two column[4];
    HWY_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = (tile * 4 + j) * pixel;
      column[j] = spread<Pair>(hn::LoadU(d, rows[0] + at), hn::LoadU(d, rows[1] + at),
                               hn::LoadU(d, rows[2] + at), hn::LoadU(d, rows[3] + at));
    }
    store_spread(column[0].first, column[1].first, column[2].first, column[3].first, to, stride);
    store_spread(column[0].second, column[1].second, column[2].second, column[3].second, to + 6 * stride,
                 stride);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_GRADIENT_TRANSFORM_INL
