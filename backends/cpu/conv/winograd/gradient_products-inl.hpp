// The multiplications of the Winograd weight gradient, once for every target that foreach_target.h goes
// through.
#if defined(FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#undef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#else
#define FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/conv/winograd/gradient_steps.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// Vectors of x that share each number of dy: two of one chunk with AVX2, one of each of two chunks with
/// AVX-512, where there are two.
inline constexpr int chunks_of_pair = lanes == 16 ? 2 : 1;

/// What a product reads and writes: `dy_tile` floats from tile to tile of dy, `x_apart` and `sums_apart` from
/// vector to vector of x and of the sums.
struct GradientPlaces {
  const float *x, *dy;
  std::int64_t x_apart, dy_tile;
  float* sums;
  std::int64_t sums_apart;
};

/// sums[out][in] = or += Σ over tiles of dy[tile][out]·x[tile][in], 16 outputs and `Columns` vectors of
/// inputs. A function of its own: the accumulators want half of the registers, and the loop nothing of what
/// is around it. `Dense`: so much is fetched that it goes to L2 only; L1 takes few lines at a time.
template <int Columns, bool Add, bool Dense>
HWY_NOINLINE void multiply_chunk(const GradientPlaces& at, std::int64_t tiles, winograd::Fetch x_ahead,
                                 winograd::Fetch dy_ahead) {
  constexpr int rows = lanes == 8 ? 4 : 16 / Columns;
  const Floats d;
  for (int out = 0; out < 16; out += rows) {
    Vec total[rows][Columns];
    HWY_UNROLL(16)
    for (int r = 0; r < rows; ++r) {
      HWY_UNROLL(2)
      for (int c = 0; c < Columns; ++c) total[r][c] = hn::Zero(d);
    }
    const float* HWY_RESTRICT from_x = at.x;
    const float* HWY_RESTRICT from_dy = at.dy + out;
    const std::int64_t apart = at.x_apart, dy_tile = at.dy_tile;
    for (const float* end = from_x + tiles * 16; from_x < end; from_x += 16, from_dy += dy_tile) {
      if (rows == 16 || out == 0) {
        __builtin_prefetch(x_ahead.at, 0, Dense ? 2 : 3);
        __builtin_prefetch(dy_ahead.at, 0, Dense ? 2 : 3);
        x_ahead.at += x_ahead.step;
        dy_ahead.at += dy_ahead.step;
      }
      Vec inputs[Columns];
      HWY_UNROLL(2)
      for (int c = 0; c < Columns; ++c) inputs[c] = hn::Load(d, from_x + c * apart);
      HWY_UNROLL(16)
      for (int r = 0; r < rows; ++r) {
        const Vec gradient = hn::Set(d, from_dy[r]);
        HWY_UNROLL(2)
        for (int c = 0; c < Columns; ++c) total[r][c] = hn::MulAdd(gradient, inputs[c], total[r][c]);
      }
    }
    float* const to = at.sums + out * 16;
    HWY_UNROLL(16)
    for (int r = 0; r < rows; ++r) {
      HWY_UNROLL(2)
      for (int c = 0; c < Columns; ++c) {
        float* const sum = to + r * 16 + c * at.sums_apart;
        hn::Store(Add ? hn::Add(hn::Load(d, sum), total[r][c]) : total[r][c], d, sum);
      }
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
