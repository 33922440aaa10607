// The products of transformed tiles and transformed weights, and half of the way back to pixels, once for
// every target that foreach_target.h goes through.
#if defined(FUSETAPE_WINOGRAD_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_PRODUCTS_INL
#undef FUSETAPE_WINOGRAD_PRODUCTS_INL
#else
#define FUSETAPE_WINOGRAD_PRODUCTS_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// Tiles whose sums stand in registers together: 24 of 32 with AVX-512, 12 of 16 with AVX2.
inline constexpr std::int64_t tiles_at_once = lanes == 16 ? 4 : 2;

/// Six to four: a row times A.
struct FourVectors {
  Vec v0, v1, v2, v3;
};
HWY_INLINE FourVectors inverse(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5) {
  const Floats f;
  const Vec even = hn::Add(m1, m2), odd = hn::Sub(m1, m2);
  const Vec wide_even = hn::Add(m3, m4), wide_odd = hn::Sub(m3, m4);
  return {hn::Add(m0, hn::Add(even, wide_even)), hn::MulAdd(hn::Set(f, 2.0f), wide_odd, odd),
          hn::MulAdd(hn::Set(f, 4.0f), wide_even, even),
          hn::MulAdd(hn::Set(f, 8.0f), wide_odd, hn::Add(odd, m5))};
}

/// One row of six positions of a tile, for a vector of outputs.
struct PositionRow {
  Vec m0, m1, m2, m3, m4, m5;
  HWY_INLINE PositionRow() { m0 = m1 = m2 = m3 = m4 = m5 = hn::Zero(Floats()); }

  /// v: a channel of the row's six positions, a chunk apart.
  HWY_INLINE void add(const float* v, Vec w0, Vec w1, Vec w2, Vec w3, Vec w4, Vec w5) {
    const Floats f;
    m0 = hn::MulAdd(hn::Set(f, v[0 * winograd::chunk]), w0, m0);
    m1 = hn::MulAdd(hn::Set(f, v[1 * winograd::chunk]), w1, m1);
    m2 = hn::MulAdd(hn::Set(f, v[2 * winograd::chunk]), w2, m2);
    m3 = hn::MulAdd(hn::Set(f, v[3 * winograd::chunk]), w3, m3);
    m4 = hn::MulAdd(hn::Set(f, v[4 * winograd::chunk]), w4, m4);
    m5 = hn::MulAdd(hn::Set(f, v[5 * winograd::chunk]), w5, m5);
  }
  /// To `to`, or to what stands there.
  template <bool Adds>
  HWY_INLINE void store(float* to) const {
    const Floats f;
    const FourVectors out = inverse(m0, m1, m2, m3, m4, m5);
    const auto put = [&](Vec v, float* place)
                         HWY_ATTR { hn::Store(Adds ? hn::Add(v, hn::Load(f, place)) : v, f, place); };
    put(out.v0, to);
    put(out.v1, to + lanes);
    put(out.v2, to + 2 * lanes);
    put(out.v3, to + 3 * lanes);
  }
};

/// Memory that is fetched while a row of positions is multiplied: a line of each stretch with each channel.
inline constexpr int most_fetched = 4;
struct Fetched {
  const char* at[most_fetched] = {};
};

inline constexpr std::int64_t product_size =
    winograd::half_inverted * lanes;  ///< of a tile, for one vector of outputs
inline constexpr std::int64_t tile_row = winograd::transformed_size * winograd::chunk;

/// A row of positions of `tiles_at_once` tiles, for one vector of outputs: v [chunk][tile][6][chunk], of
/// which chunks are `chunk_stride` floats apart, times u [channel][6][lanes], to four vectors for each tile.
/// Not inlined, and called by a pointer: the compiler would spill.
template <int Count, bool Adds>
HWY_NOINLINE void multiply_row(const float* HWY_RESTRICT v, const float* HWY_RESTRICT u,
                               std::int64_t channels, std::ptrdiff_t chunk_stride,
                               float* HWY_RESTRICT products, const Fetched& fetched) {
  const Floats f;
  PositionRow t0, t1, t2, t3;
  std::ptrdiff_t offset = 0;
  const auto add_channel = [&](const float* from) HWY_ATTR {
    const Vec w0 = hn::Load(f, u), w1 = hn::Load(f, u + lanes), w2 = hn::Load(f, u + 2 * lanes);
    const Vec w3 = hn::Load(f, u + 3 * lanes), w4 = hn::Load(f, u + 4 * lanes);
    const Vec w5 = hn::Load(f, u + 5 * lanes);
    u += 6 * lanes;
    // L1 takes a line with each channel; more of them wait there for each other, and go to L2.
    if constexpr (Count > 0) __builtin_prefetch(fetched.at[0] + offset, 0, Count == 1 ? 3 : 2);
    if constexpr (Count > 1) __builtin_prefetch(fetched.at[1] + offset, 0, 2);
    if constexpr (Count > 2) __builtin_prefetch(fetched.at[2] + offset, 0, 2);
    if constexpr (Count > 3) __builtin_prefetch(fetched.at[3] + offset, 0, 2);
    offset += 64;
    t0.add(from, w0, w1, w2, w3, w4, w5);
    t1.add(from + tile_row, w0, w1, w2, w3, w4, w5);
    if constexpr (tiles_at_once == 4) {
      t2.add(from + 2 * tile_row, w0, w1, w2, w3, w4, w5);
      t3.add(from + 3 * tile_row, w0, w1, w2, w3, w4, w5);
    }
  };
  for (; channels > 0; channels -= winograd::chunk, v += chunk_stride) {
    const float* const end = v + std::min(channels, winograd::chunk);
    for (const float* from = v; from != end; ++from) add_channel(from);
  }
  t0.store<Adds>(products);
  t1.store<Adds>(products + product_size);
  if constexpr (tiles_at_once == 4) {
    t2.store<Adds>(products + 2 * product_size);
    t3.store<Adds>(products + 3 * product_size);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_PRODUCTS_INL
