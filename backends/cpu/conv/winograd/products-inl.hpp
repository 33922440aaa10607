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

/// Half a row of positions, of how many tiles stands in registers together: 24 sums of 32 registers with
/// AVX-512, 12 of 16 with AVX2. Two vectors of outputs share each number of x that is read; every product of
/// a sum would read one otherwise, and reading, not multiplying, would set the pace.
inline constexpr std::int64_t tiles_of_pair = lanes == 16 ? 4 : 2;
inline constexpr std::int64_t tiles_of_one = 2 * tiles_of_pair;

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

/// Memory that is fetched while a row of positions is multiplied: a line of each stretch with each channel.
inline constexpr int most_fetched = 4;
struct Fetched {
  const char* at[most_fetched] = {};
};

inline constexpr std::int64_t product_size =
    winograd::half_inverted * lanes;  ///< of a tile, for one vector of outputs
inline constexpr std::int64_t tile_row = winograd::transformed_size * winograd::chunk;

/// Where the products of a tile go, for one vector of outputs: halfway back to pixels.
template <int Half>
HWY_INLINE void store_half(Vec m0, Vec m1, Vec m2, bool adds, float* to) {
  const Floats f;
  const auto before = [&](int i) HWY_ATTR { return adds ? hn::Load(f, to + i * lanes) : hn::Zero(f); };
  const auto put = [&](Vec v, int i) HWY_ATTR { hn::Store(v, f, to + i * lanes); };
  if constexpr (Half == 0) {
    const Vec even = hn::Add(m1, m2), odd = hn::Sub(m1, m2);
    put(hn::Add(before(0), hn::Add(m0, even)), 0);
    put(hn::Add(before(1), odd), 1);
    put(hn::Add(before(2), even), 2);
    put(hn::Add(before(3), odd), 3);
  } else {
    const Vec even = hn::Add(m0, m1), odd = hn::Sub(m0, m1);
    put(hn::Add(before(0), even), 0);
    put(hn::MulAdd(hn::Set(f, 2.0f), odd, before(1)), 1);
    put(hn::MulAdd(hn::Set(f, 4.0f), even, before(2)), 2);
    put(hn::MulAdd(hn::Set(f, 8.0f), odd, hn::Add(before(3), m2)), 3);
  }
}

/// Where a product reads and writes.
struct ProductPlaces {
  const float* v;                  ///< [chunk][tile][6][chunk], at the half's first position
  std::ptrdiff_t chunk_stride;     ///< floats from chunk to chunk of it
  const float* u;                  ///< [vector][channel][3][lanes]
  std::ptrdiff_t vector_stride;    ///< floats from vector to vector of it
  float* products;                 ///< [vector][tile][6][4][lanes], at the row's first
  std::ptrdiff_t products_stride;  ///< floats from vector to vector of them
};

/// Half a row of positions, of `Vectors` vectors of outputs and as many tiles as stand in registers: x times
/// the weights of so many channels, made in `products` or added there. The second half always adds to the
/// first. Not inlined, and called by a pointer: the compiler would spill.
template <int Vectors, int Half, int Count>
HWY_NOINLINE void multiply_half(const ProductPlaces& at, std::int64_t channels, bool adds,
                                const Fetched& fetched) {
  constexpr int tiles = Vectors == 2 ? tiles_of_pair : tiles_of_one;
  const Floats f;
  Vec m[tiles][3][Vectors];
  HWY_UNROLL(8)
  for (int t = 0; t < tiles; ++t) {
    HWY_UNROLL(3)
    for (int i = 0; i < 3; ++i) {
      HWY_UNROLL(2)
      for (int k = 0; k < Vectors; ++k) m[t][i][k] = hn::Zero(f);
    }
  }
  const float* v = at.v;
  const float* u = at.u;
  const std::ptrdiff_t next_vector = at.vector_stride;
  std::ptrdiff_t offset = 0;
  for (std::int64_t left = channels; left > 0; left -= winograd::chunk, v += at.chunk_stride) {
    const float* const end = v + std::min(left, winograd::chunk);
    for (const float* from = v; from != end; ++from, u += 3 * lanes, offset += 64) {
      // L1 takes a line with each channel; more of them wait there for each other, and go to L2.
      if constexpr (Count > 0) __builtin_prefetch(fetched.at[0] + offset, 0, Count == 1 ? 3 : 2);
      if constexpr (Count > 1) __builtin_prefetch(fetched.at[1] + offset, 0, 2);
      if constexpr (Count > 2) __builtin_prefetch(fetched.at[2] + offset, 0, 2);
      if constexpr (Count > 3) __builtin_prefetch(fetched.at[3] + offset, 0, 2);
      HWY_UNROLL(3)
      for (int i = 0; i < 3; ++i) {
        Vec w[Vectors];
        HWY_UNROLL(2)
        for (int k = 0; k < Vectors; ++k) w[k] = hn::Load(f, u + k * next_vector + i * lanes);
        HWY_UNROLL(8)
        for (int t = 0; t < tiles; ++t) {
          const Vec x = hn::Set(f, from[t * tile_row + i * winograd::chunk]);
          HWY_UNROLL(2)
          for (int k = 0; k < Vectors; ++k) m[t][i][k] = hn::MulAdd(x, w[k], m[t][i][k]);
        }
      }
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < tiles; ++t) {
    HWY_UNROLL(2)
    for (int k = 0; k < Vectors; ++k) {
      store_half<Half>(m[t][0][k], m[t][1][k], m[t][2][k], Half == 1 || adds,
                       at.products + k * at.products_stride + t * product_size);
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_PRODUCTS_INL
