// Aᵀ m, the second half of the way back to pixels, and the sink, once for every target that foreach_target.h
// goes through.
#if defined(FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#undef FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#else
#define FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#endif

#include "backends/cpu/winograd/convolve_part.hpp"
#include "backends/cpu/winograd/products-inl.hpp"
#include "backends/cpu/winograd/row_loader-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

using winograd::Sink;
using winograd::Sums;

enum class Gate : std::uint8_t { none, relu, mask_y, mask_x };

inline Gate gate_of(const Sink& sink) {
  if (sink.mask_y != nullptr) return Gate::mask_y;
  if (sink.mask_x != nullptr) return Gate::mask_x;
  return sink.relu ? Gate::relu : Gate::none;
}

/// A sink on one vector of channels. It holds copies: what stands in memory might change with every store.
template <class T, Gate G, Sums S, class Access>
struct SinkColumn {
  const Access access;
  T* const y;
  const T *const z, *const mask, *const norm_x;
  const Vec bias, mask_scale, mask_shift, norm_mean;
  Vec shift = hn::Zero(Floats()), first = shift, second = shift;

  HWY_INLINE SinkColumn(const Sink& s, const Access& a, std::int64_t channel)
      : access(a),
        y(static_cast<T*>(s.y)),
        z(static_cast<const T*>(s.z)),
        mask(static_cast<const T*>(G == Gate::mask_y ? s.mask_y : s.mask_x)),
        norm_x(static_cast<const T*>(s.norm_x)),
        bias(per_channel(s.bias, a, channel)),
        mask_scale(per_channel(s.mask_scale, a, channel)),
        mask_shift(per_channel(s.mask_shift, a, channel)),
        norm_mean(per_channel(s.norm_mean, a, channel)) {}

  /// What is stored at a place for the convolution's result v.
  HWY_INLINE Vec value(Vec v, std::int64_t at) const {
    v = hn::Add(v, bias);
    if (z != nullptr) v = hn::Add(v, access.load(z + at));
    if constexpr (G == Gate::relu) v = relu(v);
    if constexpr (G == Gate::mask_y) v = hn::IfThenZeroElse(blocked<T>(access.load(mask + at)), v);
    if constexpr (G == Gate::mask_x) {
      v = hn::IfThenZeroElse(blocked<T>(hn::MulAdd(mask_scale, access.load(mask + at), mask_shift)), v);
    }
    return S == Sums::none ? v : rounded<T>(v);
  }
  HWY_INLINE void pixel(Vec result, std::int64_t at) {
    const Vec v = value(result, at);
    access.store(v, y + at);
    if constexpr (S == Sums::moments) {
      const Vec d = hn::Sub(v, shift);
      first = hn::Add(first, d);
      second = hn::MulAdd(d, d, second);
    }
    if constexpr (S == Sums::gradient) {
      first = hn::Add(first, v);
      second = hn::MulAdd(v, hn::Sub(access.load(norm_x + at), norm_mean), second);
    }
  }
};

/// A column of a tile's products, [6][4][lanes], to four pixels.
HWY_INLINE FourVectors pixel_column(const float* products, std::int64_t column) {
  const auto at = [&](int i) HWY_ATTR { return hn::Load(Floats(), products + (i * 4 + column) * lanes); };
  return inverse(at(0), at(1), at(2), at(3), at(4), at(5));
}

/// Where a run's pixels go: elements from pixel to pixel and from row to row, and how far the image reaches.
struct PixelPlaces {
  std::int64_t first, pixel, row;
  std::int64_t rows, columns;  ///< of the image, from the run's first pixel on
};

/// One column of a tile, of which `rows` are inside the image.
template <class Column>
HWY_INLINE void sink_pixels(Column& column, const float* products, std::int64_t j, std::int64_t at,
                            std::int64_t row, std::int64_t rows) {
  const FourVectors v = pixel_column(products, j);
  column.pixel(v.v0, at);
  if (rows > 1) column.pixel(v.v1, at + row);
  if (rows > 2) column.pixel(v.v2, at + 2 * row);
  if (rows > 3) column.pixel(v.v3, at + 3 * row);
}

/// A vector of channels of a run of tiles.
template <class Column>
HWY_INLINE void sink_tiles(Column& column, const PixelPlaces places, std::int64_t tiles,
                           const float* products) {
  const std::int64_t whole = places.rows < 4 ? 0 : std::min(tiles, places.columns / 4);
  std::int64_t at = places.first;
  for (std::int64_t t = 0; t < whole; ++t, products += 24 * lanes) {
    for (std::int64_t j = 0; j < 4; ++j, at += places.pixel) {
      sink_pixels(column, products, j, at, places.row, 4);
    }
  }
  for (std::int64_t t = whole; t < tiles; ++t, products += 24 * lanes) {
    const std::int64_t columns = std::min<std::int64_t>(4, places.columns - t * 4);
    for (std::int64_t j = 0; j < columns; ++j, at += places.pixel) {
      sink_pixels(column, products, j, at, places.row, places.rows);
    }
  }
}

/// The mean over the first tile, a start for the moments' shift. Reads only, so that z may be y.
template <class Column>
HWY_INLINE Vec mean_of_first(const Column& column, const PixelPlaces& places, const float* products) {
  const std::int64_t rows = std::min<std::int64_t>(4, places.rows);
  const std::int64_t columns = std::min<std::int64_t>(4, places.columns);
  Vec sum = hn::Zero(Floats());
  for (std::int64_t j = 0; j < columns; ++j) {
    const FourVectors v = pixel_column(products, j);
    const Vec of_row[4] = {v.v0, v.v1, v.v2, v.v3};
    for (std::int64_t i = 0; i < rows; ++i) {
      sum = hn::Add(sum, column.value(of_row[i], places.first + i * places.row + j * places.pixel));
    }
  }
  return hn::Mul(sum, hn::Set(Floats(), 1.0f / static_cast<float>(rows * columns)));
}

/// What is sunk: a run's products for one vector of channels. `begins`: before anything else of the part.
struct Sinking {
  PixelPlaces places;
  std::int64_t tiles, channel;
  const float* products;
  const winograd::PartSums& sums;
  std::int64_t sums_place;
  bool begins;
};

template <class T, Gate G, Sums S, class Access>
void sink_column(const Sink& sink, const Access& access, const Sinking& run) {
  const Floats f;
  SinkColumn<T, G, S, Access> column(sink, access, run.channel);
  if constexpr (S == Sums::none) return sink_tiles(column, run.places, run.tiles, run.products);
  if constexpr (S == Sums::moments) {
    float* const shift = run.sums.shift + run.sums_place;
    if (run.begins) hn::Store(mean_of_first(column, run.places, run.products), f, shift);
    column.shift = hn::Load(f, shift);
  }
  float* const first = run.sums.block_first + run.sums_place;
  float* const second = run.sums.block_second + run.sums_place;
  column.first = hn::Load(f, first);
  column.second = hn::Load(f, second);
  sink_tiles(column, run.places, run.tiles, run.products);
  hn::Store(column.first, f, first);
  hn::Store(column.second, f, second);
}

template <class T, Gate G, Sums S>
void sink_vector(const Sink& sink, std::int64_t channels, const Sinking& run) {
  channels >= lanes ? sink_column<T, G, S>(sink, Whole{}, run)
                    : sink_column<T, G, S>(sink, Tail(channels), run);
}

template <class T, Gate G>
void sink_gated(const Sink& sink, std::int64_t channels, const Sinking& run) {
  switch (sink.sums) {
    case Sums::none:
      return sink_vector<T, G, Sums::none>(sink, channels, run);
    case Sums::moments:
      return sink_vector<T, G, Sums::moments>(sink, channels, run);
    case Sums::gradient:
      return sink_vector<T, G, Sums::gradient>(sink, channels, run);
  }
}

template <class T>
void sink_typed(const Sink& sink, std::int64_t channels, const Sinking& run) {
  switch (gate_of(sink)) {
    case Gate::none:
      return sink_gated<T, Gate::none>(sink, channels, run);
    case Gate::relu:
      return sink_gated<T, Gate::relu>(sink, channels, run);
    case Gate::mask_y:
      return sink_gated<T, Gate::mask_y>(sink, channels, run);
    case Gate::mask_x:
      return sink_gated<T, Gate::mask_x>(sink, channels, run);
  }
}

/// Sinks a run for one vector of channels, of which there are `channels` or more.
inline void sink_run(const Sink& sink, std::int64_t channels, const Sinking& run) {
  sink.dtype == DType::bf16 ? sink_typed<Bf16>(sink, channels, run) : sink_typed<float>(sink, channels, run);
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
