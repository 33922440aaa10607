// Bᵀ d B of F(4×4, 3×3): 6×6 pixels of each tile to 6×6 positions, once for every target that
// foreach_target.h goes through.
#if defined(FUSETAPE_WINOGRAD_INPUT_TRANSFORM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_INPUT_TRANSFORM_INL
#undef FUSETAPE_WINOGRAD_INPUT_TRANSFORM_INL
#else
#define FUSETAPE_WINOGRAD_INPUT_TRANSFORM_INL
#endif

#include "backends/cpu/conv/winograd/row_loader-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

/// Which rows of the 6×6 positions are made: those that share their sums are made together.
enum RowPairs : unsigned { rows_12 = 1, rows_34 = 2, rows_05 = 4, all_rows = 7 };

/// Where positions go, in floats: from row to row, from column to column, from tile to tile. With one pair
/// only, its rows are 0 and 1.
struct PositionStrides {
  std::ptrdiff_t row, column, tile;
};

/// The same, with columns side by side, and then tiles.
struct SideBySide {
  std::ptrdiff_t row;
  static constexpr std::ptrdiff_t column = winograd::chunk, tile = winograd::transformed_size * column;
};

/// Six rows of pixels, in x itself or in the loader's scratch.
struct PixelRows {
  const float* first;
  std::ptrdiff_t pixel, row;         ///< strides
  bool top_padding, bottom_padding;  ///< row 0, row 5 is zeros
  bool left_padding, right_padding;  ///< the first, the last column is zeros
};

struct Pair {
  Vec first, second;
};

/// Columns of a pair of rows of Bᵀ d, from left to right.
template <unsigned Rows>
class ColumnPairs {
 public:
  HWY_INLINE explicit ColumnPairs(const PixelRows& from)
      : at_(from.first),
        pixel_(from.pixel),
        row_(from.row),
        top_(hn::FirstN(Floats(), from.top_padding ? 0 : lanes)),
        bottom_(hn::FirstN(Floats(), from.bottom_padding ? 0 : lanes)) {}

  HWY_INLINE void skip() { at_ += pixel_; }
  HWY_INLINE Pair next() {
    const Floats f;
    const float *p = at_, *q = at_ + 3 * row_;
    at_ += pixel_;
    const Vec d1 = hn::LoadU(f, p + row_), d2 = hn::LoadU(f, p + 2 * row_);
    const Vec d3 = hn::LoadU(f, q), d4 = hn::LoadU(f, q + row_);
    const Vec four = hn::Set(f, 4.0f), five = hn::Set(f, 5.0f), two = hn::Set(f, 2.0f);
    if constexpr (Rows == rows_12) {
      const Vec even = hn::NegMulAdd(four, d2, d4), odd = hn::NegMulAdd(four, d1, d3);
      return {hn::Add(even, odd), hn::Sub(even, odd)};
    } else if constexpr (Rows == rows_34) {
      const Vec even = hn::Sub(d4, d2), odd = hn::Sub(d3, d1);
      return {hn::MulAdd(two, odd, even), hn::NegMulAdd(two, odd, even)};
    } else {
      const Vec d0 = hn::MaskedLoad(top_, f, p), d5 = hn::MaskedLoad(bottom_, f, q + 2 * row_);
      return {hn::MulAdd(four, d0, hn::NegMulAdd(five, d2, d4)),
              hn::MulAdd(four, d1, hn::NegMulAdd(five, d3, d5))};
    }
  }

 private:
  const float* at_;
  std::ptrdiff_t pixel_, row_;
  Bits top_, bottom_;
};

/// A row of Bᵀ d times B.
HWY_INLINE void store_row(Vec d0, Vec d1, Vec d2, Vec d3, Vec d4, Vec d5, std::ptrdiff_t stride, float* to) {
  const Floats f;
  const Vec four = hn::Set(f, 4.0f), five = hn::Set(f, 5.0f), two = hn::Set(f, 2.0f);
  const Vec even1 = hn::NegMulAdd(four, d2, d4), odd1 = hn::NegMulAdd(four, d1, d3);
  const Vec even3 = hn::Sub(d4, d2), odd3 = hn::Sub(d3, d1);
  hn::Store(hn::MulAdd(four, d0, hn::NegMulAdd(five, d2, d4)), f, to);
  hn::Store(hn::Add(even1, odd1), f, to + stride);
  hn::Store(hn::Sub(even1, odd1), f, to + 2 * stride);
  hn::Store(hn::MulAdd(two, odd3, even3), f, to + 3 * stride);
  hn::Store(hn::NegMulAdd(two, odd3, even3), f, to + 4 * stride);
  hn::Store(hn::MulAdd(four, d1, hn::NegMulAdd(five, d3, d5)), f, to + 5 * stride);
}

/// A pair of rows of each tile; two columns are carried over from tile to tile.
template <unsigned Rows, class Strides>
HWY_INLINE void transform_pair(const PixelRows& from, std::int64_t tiles, const Strides& strides,
                               float* first, float* second) {
  const Pair padding = {hn::Zero(Floats()), hn::Zero(Floats())};
  const bool right_padding = from.right_padding;
  ColumnPairs<Rows> columns(from);
  Pair c0 = padding;
  if (from.left_padding) {
    columns.skip();
  } else {
    c0 = columns.next();
  }
  Pair c1 = columns.next();
  for (; tiles > 0; --tiles, first += strides.tile, second += strides.tile) {
    const Pair c2 = columns.next(), c3 = columns.next(), c4 = columns.next();
    const Pair c5 = right_padding && tiles == 1 ? padding : columns.next();
    store_row(c0.first, c1.first, c2.first, c3.first, c4.first, c5.first, strides.column, first);
    store_row(c0.second, c1.second, c2.second, c3.second, c4.second, c5.second, strides.column, second);
    c0 = c4;
    c1 = c5;
  }
}

template <unsigned Pairs, class Strides>
HWY_INLINE void transform_rows(const PixelRows& from, std::int64_t tiles, const Strides& strides, float* to) {
  const auto row = [&](int all, int alone)
                       HWY_ATTR { return to + (Pairs == all_rows ? all : alone) * strides.row; };
  if constexpr ((Pairs & rows_12) != 0) transform_pair<rows_12>(from, tiles, strides, row(1, 0), row(2, 1));
  if constexpr ((Pairs & rows_34) != 0) transform_pair<rows_34>(from, tiles, strides, row(3, 0), row(4, 1));
  if constexpr ((Pairs & rows_05) != 0) transform_pair<rows_05>(from, tiles, strides, row(0, 0), row(5, 1));
}

/// Whether a source's pixels are the transform's operands: f32, no arithmetic.
inline bool reads_as_it_is(const winograd::Source& source) {
  return source.dtype == DType::f32 && form_of(source) == Form::plain;
}

/// Whether a run's pixels can be read where they are: f32 as it is, a whole chunk, and no padding but a
/// single row or column on each side.
inline bool reads_in_place(const winograd::Problem& problem, const winograd::Source& source,
                           const winograd::Rectangle& pixels, std::int64_t first_channel) {
  return reads_as_it_is(source) && first_channel + winograd::chunk <= problem.in && pixels.row >= -1 &&
         pixels.column >= -1 && pixels.row + pixels.rows <= problem.height + 1 &&
         pixels.column + pixels.columns <= problem.width + 1;
}

inline PixelRows rows_in_place(const winograd::Problem& problem, const winograd::Source& source,
                               const winograd::Rectangle& pixels, std::int64_t channel) {
  const std::int64_t first =
      ((pixels.image * problem.height + pixels.row) * problem.width + pixels.column) * problem.in + channel;
  return {.first = static_cast<const float*>(source.x) + first,
          .pixel = problem.in,
          .row = problem.width * problem.in,
          .top_padding = (pixels.row < 0),
          .bottom_padding = (pixels.row + pixels.rows > problem.height),
          .left_padding = (pixels.column < 0),
          .right_padding = (pixels.column + pixels.columns > problem.width)};
}

/// Transforms one chunk of channels of a run. Position (i, j) of tile t goes to
/// `to` + i·strides.row + j·strides.column + t·strides.tile, a whole chunk each; `to` is 64-byte aligned.
/// `writes`: source.written, if any, gets the run's own pixels. `scratch`: pixel_scratch floats, 64-byte
/// aligned.
template <unsigned Pairs, class Strides>
void transform_run(const winograd::Problem& problem, const winograd::Tiles& tiles,
                   const winograd::Source& source, const winograd::Run& run, std::int64_t first_channel,
                   bool writes, const Strides& strides, float* to, float* scratch) {
  const winograd::Rectangle pixels = pixels_read(run, problem.pad);
  if (reads_in_place(problem, source, pixels, first_channel)) {
    for (std::int64_t place = 0; place < winograd::chunk; place += lanes) {
      const PixelRows rows = rows_in_place(problem, source, pixels, first_channel + place);
      transform_rows<Pairs>(rows, run.count, strides, to + place);
    }
    return;
  }
  const bool written = writes && source.written != nullptr;
  const winograd::Rectangle owned = written ? pixels_owned(problem, tiles, run) : winograd::Rectangle{};
  load_pixels(problem, source, pixels, owned, first_channel, scratch);
  for (std::int64_t place = 0; place < winograd::chunk; place += lanes) {
    const PixelRows rows{
        .first = scratch + place, .pixel = winograd::chunk, .row = pixels.columns * winograd::chunk};
    transform_rows<Pairs>(rows, run.count, strides, to + place);
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_INPUT_TRANSFORM_INL
