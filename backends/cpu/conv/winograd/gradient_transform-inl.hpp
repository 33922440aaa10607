// The transform of dy of F(3×3, 4×4): 4×4 pixels of each tile to 6×6 positions, once for every target that
// foreach_target.h goes through. Points 0, ±1, ±2, ∞; their scales are left to the transform of the sums.
#if defined(FUSETAPE_WINOGRAD_GRADIENT_TRANSFORM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_GRADIENT_TRANSFORM_INL
#undef FUSETAPE_WINOGRAD_GRADIENT_TRANSFORM_INL
#else
#define FUSETAPE_WINOGRAD_GRADIENT_TRANSFORM_INL
#endif

#include "backends/cpu/conv/winograd/gradient_steps.hpp"
#include "backends/cpu/conv/winograd/input_transform-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// Two of the six numbers that four become: those of ±1, of ±2, or of 0 and ∞.
template <unsigned Rows>
HWY_INLINE Pair spread(Vec d0, Vec d1, Vec d2, Vec d3) {
  const Floats f;
  if constexpr (Rows == rows_12) {
    const Vec even = hn::Add(d0, d2), odd = hn::Add(d1, d3);
    return {hn::Add(even, odd), hn::Sub(even, odd)};
  } else if constexpr (Rows == rows_34) {
    const Vec four = hn::Set(f, 4.0f), two = hn::Set(f, 2.0f);
    const Vec even = hn::MulAdd(four, d2, d0), odd = hn::MulAdd(four, d3, d1);
    return {hn::MulAdd(two, odd, even), hn::NegMulAdd(two, odd, even)};
  } else {
    return {d0, d3};
  }
}

HWY_INLINE void store_spread(Vec d0, Vec d1, Vec d2, Vec d3, std::ptrdiff_t stride, float* to) {
  const Floats f;
  const Pair ones = spread<rows_12>(d0, d1, d2, d3), twos = spread<rows_34>(d0, d1, d2, d3);
  hn::Store(d0, f, to);
  hn::Store(ones.first, f, to + stride);
  hn::Store(ones.second, f, to + 2 * stride);
  hn::Store(twos.first, f, to + 3 * stride);
  hn::Store(twos.second, f, to + 4 * stride);
  hn::Store(d3, f, to + 5 * stride);
}

/// Four rows of dy's pixels, in dy itself or in the loader's scratch.
struct GradientRows {
  const float* first;
  std::ptrdiff_t row, pixel;  ///< from row to row, from pixel to pixel
};

/// A pair of rows of each tile.
template <unsigned Rows>
HWY_INLINE void spread_pair(const GradientRows& from, std::int64_t tiles, const PositionStrides& strides,
                            float* first, float* second) {
  const float* p = from.first;
  for (std::int64_t t = 0; t < tiles; ++t, first += strides.tile, second += strides.tile) {
    const auto column = [&]() HWY_ATTR {
      const Floats f;
      const Vec d0 = hn::LoadU(f, p), d1 = hn::LoadU(f, p + from.row);
      const Vec d2 = hn::LoadU(f, p + 2 * from.row), d3 = hn::LoadU(f, p + 3 * from.row);
      p += from.pixel;
      return spread<Rows>(d0, d1, d2, d3);
    };
    const Pair c0 = column(), c1 = column(), c2 = column(), c3 = column();
    store_spread(c0.first, c1.first, c2.first, c3.first, strides.column, first);
    store_spread(c0.second, c1.second, c2.second, c3.second, strides.column, second);
  }
}

template <unsigned Pairs>
HWY_INLINE void spread_rows(const GradientRows& from, std::int64_t tiles, const PositionStrides& strides,
                            float* to) {
  const auto row = [&](int all, int alone)
                       HWY_ATTR { return to + (Pairs == all_rows ? all : alone) * strides.row; };
  if constexpr ((Pairs & rows_12) != 0) spread_pair<rows_12>(from, tiles, strides, row(1, 0), row(2, 1));
  if constexpr ((Pairs & rows_34) != 0) spread_pair<rows_34>(from, tiles, strides, row(3, 0), row(4, 1));
  if constexpr ((Pairs & rows_05) != 0) spread_pair<rows_05>(from, tiles, strides, row(0, 0), row(5, 1));
}

/// Transforms one chunk of channels of a run; `image` is the problem whose x is dy, the rest as in
/// transform_run.
template <unsigned Pairs>
void transform_gradient_run(const winograd::Problem& image, const winograd::Source& source,
                            const winograd::Run& run, std::int64_t first_channel, bool writes,
                            const PositionStrides& strides, float* to, float* scratch) {
  const winograd::Rectangle pixels = winograd::gradient_pixels(run);
  winograd::Rectangle inside = pixels;
  inside.rows = std::min(pixels.rows, image.height - pixels.row);
  inside.columns = std::min(pixels.columns, image.width - pixels.column);
  const bool whole = inside.rows == pixels.rows && inside.columns == pixels.columns &&
                     first_channel + winograd::chunk <= image.in;
  GradientRows rows{.first = scratch, .row = pixels.columns * winograd::chunk, .pixel = winograd::chunk};
  if (whole && reads_as_it_is(source)) {
    const std::int64_t pixel = (pixels.image * image.height + pixels.row) * image.width + pixels.column;
    rows = {.first = static_cast<const float*>(source.x) + pixel * image.in + first_channel,
            .row = image.width * image.in,
            .pixel = image.in};
  } else {
    const bool written = writes && source.written != nullptr;
    load_pixels(image, source, pixels, written ? inside : winograd::Rectangle{}, first_channel, scratch);
  }
  for (std::int64_t place = 0; place < winograd::chunk; place += lanes, rows.first += lanes) {
    spread_rows<Pairs>(rows, run.count, strides, to + place);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_GRADIENT_TRANSFORM_INL
