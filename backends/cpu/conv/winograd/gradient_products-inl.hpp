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

/// sums[out][in] = or += Σ over tiles of dy[tile][out]·x[tile][in], 16 channels of each; `dy_tile` floats
/// from tile to tile of dy. A function of its own: the accumulators want half of the registers, and the loop
/// nothing of what is around it. `Dense`: so much is fetched that it goes to L2 only; L1 takes few lines at a
/// time.
template <bool Add, bool Dense>
HWY_NOINLINE void multiply_chunk(const float* HWY_RESTRICT x, const float* HWY_RESTRICT dy,
                                 std::int64_t dy_tile, std::int64_t tiles, float* HWY_RESTRICT sums,
                                 winograd::Fetch x_ahead, winograd::Fetch dy_ahead) {
  constexpr int columns = 16 / lanes, rows = columns == 1 ? 16 : 4;
  const Floats d;
  for (int out = 0; out < 16; out += rows) {
    Vec total[rows][columns];
    HWY_UNROLL(16)
    for (int r = 0; r < rows; ++r) {
      HWY_UNROLL(2)
      for (int c = 0; c < columns; ++c) total[r][c] = hn::Zero(d);
    }
    const float* from_x = x;
    const float* from_dy = dy + out;
    for (const float* end = x + tiles * 16; from_x < end; from_x += 16, from_dy += dy_tile) {
      if (columns == 1 || out == 0) {
        __builtin_prefetch(x_ahead.at, 0, Dense ? 2 : 3);
        __builtin_prefetch(dy_ahead.at, 0, Dense ? 2 : 3);
        x_ahead.at += x_ahead.step;
        dy_ahead.at += dy_ahead.step;
      }
      Vec inputs[columns];
      HWY_UNROLL(2)
      for (int c = 0; c < columns; ++c) inputs[c] = hn::Load(d, from_x + c * lanes);
      HWY_UNROLL(16)
      for (int r = 0; r < rows; ++r) {
        const Vec gradient = hn::Set(d, from_dy[r]);
        HWY_UNROLL(2)
        for (int c = 0; c < columns; ++c) total[r][c] = hn::MulAdd(gradient, inputs[c], total[r][c]);
      }
    }
    float* to = sums + out * 16;
    if constexpr (Add) {
      HWY_UNROLL(16)
      for (int r = 0; r < rows; ++r) {
        HWY_UNROLL(2)
        for (int c = 0; c < columns; ++c)
          total[r][c] = hn::Add(hn::Load(d, to + (r * columns + c) * lanes), total[r][c]);
      }
    }
    HWY_UNROLL(16)
    for (int r = 0; r < rows; ++r) {
      HWY_UNROLL(2)
      for (int c = 0; c < columns; ++c) hn::Store(total[r][c], d, to + (r * columns + c) * lanes);
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
