// The multiplications of the Winograd weight gradient, once for every target that foreach_target.h goes
// through.
#if defined(FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#undef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#else
#define FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

/// sums[out][in] = or += Σ over tiles of dy[tile][out]·x[tile][in], 16 channels of each. A block's sum starts
/// from zero, whatever is there: many short sums are more exact than a long one. A function of its own, for
/// the sake of the registers: the accumulators are half of them.
HWY_NOINLINE void multiply_chunk(const float* HWY_RESTRICT x, const float* HWY_RESTRICT dy,
                                 std::int64_t tiles, bool add, float* HWY_RESTRICT sums) {
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
    for (std::int64_t tile = 0; tile < tiles; ++tile, from_x += 16, from_dy += 16) {
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
    HWY_UNROLL(16)
    for (int r = 0; r < rows; ++r) {
      HWY_UNROLL(2)
      for (int c = 0; c < columns; ++c, to += lanes) {
        hn::Store(add ? hn::Add(hn::Load(d, to), total[r][c]) : total[r][c], d, to);
      }
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
