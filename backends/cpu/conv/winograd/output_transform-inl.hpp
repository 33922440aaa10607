// Aᵀ m, the second half of the way back to pixels, and the sink, once for every target that foreach_target.h
// goes through.
#if defined(FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#undef FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#else
#define FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
#endif

#include "backends/cpu/conv/winograd/convolve_part.hpp"
#include "backends/cpu/conv/winograd/forms.hpp"
#include "backends/cpu/conv/winograd/products-inl.hpp"
#include "backends/cpu/conv/winograd/row_loader-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

using winograd::Gate;
using winograd::Sink;
using winograd::Sums;

/// A sink on one vector of channels. It holds copies: what stands in memory might change with every store.
template <class T, Gate G, Sums S, bool HasZ, class Access>
struct SinkColumn {
  const Access access;
  T* const y;
  const T *const z, *const mask, *const norm_x;
  const Vec bias, mask_mean, mask_scale, mask_shift, norm_mean;
  Vec shift = hn::Zero(Floats());
  Vec first = shift, second = shift;          ///< of a tile: short chains of sums
  Vec run_first = shift, run_second = shift;  ///< of the tiles of a run

  HWY_INLINE SinkColumn(const Sink& s, const Access& a, std::int64_t channel)
      : access(a),
        y(static_cast<T*>(s.y)),
        z(static_cast<const T*>(s.z)),
        mask(static_cast<const T*>(G == Gate::mask_y ? s.mask_y : s.mask_x)),
        norm_x(static_cast<const T*>(s.norm_x)),
        bias(per_channel(s.bias, a, channel)),
        mask_mean(per_channel(s.mask_mean, a, channel)),
        mask_scale(per_channel(s.mask_scale, a, channel)),
        mask_shift(per_channel(s.mask_shift, a, channel)),
        norm_mean(per_channel(s.norm_mean, a, channel)) {}

  /// What is stored at a place for the convolution's result v.
  HWY_INLINE Vec value(Vec v, std::int64_t at) const {
    v = hn::Add(v, bias);
    if constexpr (HasZ) v = hn::Add(v, access.load(z + at));
    if constexpr (G == Gate::relu) v = relu(v);
    if constexpr (G == Gate::mask_y) v = hn::IfThenZeroElse(blocked<T>(access.load(mask + at)), v);
    if constexpr (G == Gate::mask_x) {
      const Vec masks = normalised(access.load(mask + at), mask_mean, mask_scale, mask_shift);
      v = hn::IfThenZeroElse(blocked<T>(masks), v);
    }
    return S == Sums::none ? v : rounded<T>(v);
  }
  HWY_INLINE void pixel(Vec result, std::int64_t at) {
    const Vec v = value(result, at);
    if constexpr (S == Sums::none) {
      access.store(v, y + at);
    } else {
      store_rounded(access, v, y + at);
    }
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
  HWY_INLINE void end_tile() {
    if constexpr (S != Sums::none) {
      run_first = hn::Add(run_first, first);
      run_second = hn::Add(run_second, second);
      first = second = hn::Zero(Floats());
    }
  }
  HWY_INLINE void end_run(const winograd::PartSums& sums, std::int64_t place) {
    if constexpr (S != Sums::none) {
      const Floats f;
      hn::Store(hn::Add(hn::Load(f, sums.block_first + place), run_first), f, sums.block_first + place);
      hn::Store(hn::Add(hn::Load(f, sums.block_second + place), run_second), f, sums.block_second + place);
      run_first = run_second = hn::Zero(f);
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

  PixelPlaces(const winograd::Problem& problem, const winograd::Run& run, std::int64_t channel)
      : pixel(problem.out),
        row(problem.out_width() * problem.out),
        rows(problem.out_height() - run.row * 4),
        columns(problem.out_width() - run.column * 4) {
    first = (run.image * problem.out_height() + run.row * 4) * row + run.column * 4 * pixel + channel;
  }
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
  for (std::int64_t t = 0; t < whole; ++t, products += product_size) {
    for (std::int64_t j = 0; j < 4; ++j, at += places.pixel) {
      sink_pixels(column, products, j, at, places.row, 4);
    }
    column.end_tile();
  }
  for (std::int64_t t = whole; t < tiles; ++t, products += product_size) {
    const std::int64_t columns = std::min<std::int64_t>(4, places.columns - t * 4);
    for (std::int64_t j = 0; j < columns; ++j, at += places.pixel) {
      sink_pixels(column, products, j, at, places.row, places.rows);
    }
    column.end_tile();
  }
}

/// The mean over the first tile, a start for the moments' shift.
template <class Column>
HWY_INLINE Vec mean_of_first(const Column& column, const PixelPlaces& places, const float* products) {
  const std::int64_t rows = std::min<std::int64_t>(4, places.rows);
  const std::int64_t columns = std::min<std::int64_t>(4, places.columns);
  const Vec share = hn::Set(Floats(), 1.0f / static_cast<float>(rows * columns));
  Vec mean = hn::Zero(Floats());
  for (std::int64_t j = 0; j < columns; ++j) {
    const FourVectors v = pixel_column(products, j);
    const Vec of_row[4] = {v.v0, v.v1, v.v2, v.v3};
    for (std::int64_t i = 0; i < rows; ++i) {
      mean =
          hn::MulAdd(share, column.value(of_row[i], places.first + i * places.row + j * places.pixel), mean);
    }
  }
  return mean;
}

/// What is sunk: the products of a block of tiles for one vector of channels, from `channel` on.
struct Sinking {
  const winograd::Problem& problem;
  const winograd::Tiles& tiles;
  std::int64_t first_tile, end_tile, channel;
  const float* products;
  const winograd::PartSums& sums;
  std::int64_t sums_place;
};

// No lambda: the column is to stay in registers.
template <class Column>
HWY_INLINE void sink_runs(Column& column, const Sinking& block) {
  const std::int64_t tiles = block.end_tile - block.first_tile;
  winograd::Run run = block.tiles.first_run(block.first_tile, block.end_tile);
  for (; run.count > 0; run = block.tiles.next_run(run, tiles)) {
    const PixelPlaces places(block.problem, run, block.channel);
    sink_tiles(column, places, run.count, block.products + run.first * product_size);
    column.end_run(block.sums, block.sums_place);
  }
}

template <class T, Gate G, Sums S, bool HasZ, class Access>
void sink_column(const Sink& sink, const Access& access, const Sinking& block) {
  SinkColumn<T, G, S, HasZ, Access> column(sink, access, block.channel);
  if constexpr (S == Sums::moments) {
    float* const shift = block.sums.shift + block.sums_place;
    if (*block.sums.pixels == 0) {
      const PixelPlaces places(block.problem, block.tiles.first_run(block.first_tile, block.end_tile),
                               block.channel);
      hn::Store(mean_of_first(column, places, block.products), Floats(), shift);
    }
    column.shift = hn::Load(Floats(), shift);
  }
  sink_runs(column, block);
}

template <class T, Gate G, Sums S, class Access>
void sink_access(const Sink& sink, const Access& access, const Sinking& block) {
  if constexpr (S != Sums::moments) {
    if (sink.z != nullptr) return sink_column<T, G, S, true>(sink, access, block);
  }
  sink_column<T, G, S, false>(sink, access, block);
}

template <class T, Gate G, Sums S>
void sink_vector(const Sink& sink, std::int64_t channels, const Sinking& block) {
  channels >= lanes ? sink_access<T, G, S>(sink, Whole{}, block)
                    : sink_access<T, G, S>(sink, Tail(channels), block);
}

/// One of the forms that are offered.
template <class T>
void sink_typed(const Sink& sink, std::int64_t channels, const Sinking& block) {
  const Gate gate = gate_of(sink);
  switch (sink.sums) {
    case Sums::none:
      if (gate == Gate::relu) return sink_vector<T, Gate::relu, Sums::none>(sink, channels, block);
      if (gate == Gate::mask_y) return sink_vector<T, Gate::mask_y, Sums::none>(sink, channels, block);
      return sink_vector<T, Gate::none, Sums::none>(sink, channels, block);
    case Sums::moments:
      return sink_vector<T, Gate::none, Sums::moments>(sink, channels, block);
    case Sums::gradient:
      if (gate == Gate::mask_y) return sink_vector<T, Gate::mask_y, Sums::gradient>(sink, channels, block);
      if (gate == Gate::mask_x) return sink_vector<T, Gate::mask_x, Sums::gradient>(sink, channels, block);
      return sink_vector<T, Gate::none, Sums::gradient>(sink, channels, block);
  }
}

/// Sinks a block for one vector of channels; `channels` of them are left, perhaps less than a vector.
inline void sink_block(const Sink& sink, std::int64_t channels, const Sinking& block) {
  sink.dtype == DType::bf16 ? sink_typed<Bf16>(sink, channels, block)
                            : sink_typed<float>(sink, channels, block);
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_OUTPUT_TRANSFORM_INL
