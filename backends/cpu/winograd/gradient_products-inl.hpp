// The multiplications of the Winograd weight gradient, once for every target that foreach_target.h goes
// through.
#if defined(FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#undef FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#else
#define FUSETAPE_WINOGRAD_GRADIENT_PRODUCTS_INL
#endif

#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/winograd/gradient_steps.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

/// sums[out][in] = or += Σ over tiles of dy[tile][out]·x[tile][in], 16 channels of each. A block's sum starts
/// from zero, whatever is there: many short sums are more exact than a long one. A function of its own, for
/// the sake of the registers: the accumulators are half of them.
HWY_NOINLINE void multiply_chunk(const float* HWY_RESTRICT x, const float* HWY_RESTRICT dy, std::int64_t tiles,
                                 bool add, float* HWY_RESTRICT sums, const winograd::Stretch& ahead) {
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
    const auto step = [&]() HWY_ATTR {
      Vec inputs[columns];
      HWY_UNROLL(2)
      for (int c = 0; c < columns; ++c) inputs[c] = hn::Load(d, from_x + c * lanes);
      HWY_UNROLL(16)
      for (int r = 0; r < rows; ++r) {
        const Vec gradient = hn::Set(d, from_dy[r]);
        HWY_UNROLL(2)
        for (int c = 0; c < columns; ++c) total[r][c] = hn::MulAdd(gradient, inputs[c], total[r][c]);
      }
      from_x += 16;
      from_dy += 16;
    };
    std::int64_t tile = 0;
    if (out == 0) {
      const std::int64_t pairs = std::clamp<std::int64_t>(ahead.lines - tiles, 0, tiles);
      const std::int64_t end = std::min(tiles, ahead.lines - pairs);
      const std::byte* line = ahead.first;
      for (; tile < pairs; ++tile, line += 128) {
        hwy::Prefetch(line);
        hwy::Prefetch(line + 64);
        step();
      }
      for (; tile < end; ++tile, line += 64) {
        hwy::Prefetch(line);
        step();
      }
    }
    for (; tile < tiles; ++tile) step();
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
