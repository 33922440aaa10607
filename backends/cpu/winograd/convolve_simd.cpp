#include "backends/cpu/winograd/convolve_part.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/winograd/convolve_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/winograd/input_transform-inl.hpp"
#include "backends/cpu/winograd/output_transform-inl.hpp"
#include "backends/cpu/winograd/products-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::HWY_NAMESPACE {
namespace {

using winograd::ConvolvePart;
using winograd::Problem;
using winograd::Run;
using winograd::Source;
using winograd::Tiles;

/// A block of a part's tiles, on its way through the three steps.
class Block {
 public:
  Block(const Problem& problem, const Source& source, const float* u, const Sink& sink,
        const ConvolvePart& part, std::int64_t first_tile, std::int64_t end_tile)
      : problem_(problem),
        tiles_(problem),
        source_(source),
        u_(u),
        sink_(sink),
        part_(part),
        first_tile_(first_tile),
        end_tile_(end_tile) {}

  void transform_input() const {
    const PositionStrides strides{
        .row = chunks() * chunk_stride(), .column = winograd::chunk, .tile = tile_row};
    tiles_.for_runs(first_tile_, end_tile_, [&](const Run& run) {
      for (std::int64_t i = 0; i < chunks(); ++i) {
        transform_run<all_rows>(problem_, tiles_, source_, run, i * winograd::chunk, part_.writes_source,
                                strides, part_.transformed + i * chunk_stride() + run.first * tile_row,
                                part_.rows);
      }
    });
  }

  void multiply(bool last) const {
    const ProductStrides strides{.chunk = chunk_stride(), .tile = product_size};
    const std::int64_t tiles = end_tile_ - first_tile_;
    Prefetch prefetch = prefetch_plan(last);
    for (std::int64_t row = 0; row < winograd::transformed_size; ++row) {
      const float* v = part_.transformed + row * chunks() * chunk_stride();
      for (std::int64_t vector = first_vector(); vector < end_vector(); ++vector) {
        const float* u = u_ + (vector * 6 + row) * problem_.in * 6 * lanes;
        for (std::int64_t t = 0; t < tiles; t += tiles_at_once) {
          multiply_row(v + t * tile_row, u, problem_.in, strides, products(vector, t) + row * 4 * lanes,
                       prefetch);
          prefetch.read += prefetch.lines * chunks() * 64;
          prefetch.write += prefetch.lines * chunks() * 64;
        }
      }
    }
  }

  /// Returns the number of pixels.
  std::int64_t sink() const {
    std::int64_t pixels = 0;
    tiles_.for_runs(first_tile_, end_tile_, [&](const Run& run) {
      const PixelPlaces places = places_of(run);
      pixels += std::min<std::int64_t>(4, places.rows) * std::min(4 * run.count, places.columns);
      for (std::int64_t vector = first_vector(); vector < end_vector(); ++vector) {
        const std::int64_t channel = vector * lanes;
        const Sinking sinking{.places = at_channel(places, channel),
                              .tiles = run.count,
                              .channel = channel,
                              .products = products(vector, run.first),
                              .sums = part_.sums,
                              .sums_place = channel - part_.first_out,
                              .begins = part_.sums.pixels == 0 && run.first == 0};
        sink_run(sink_, part_.end_out - channel, sinking);
      }
    });
    return pixels;
  }

 private:
  static constexpr std::int64_t product_size = 24 * lanes;

  std::int64_t chunks() const { return winograd::divided_up(problem_.in, winograd::chunk); }
  std::ptrdiff_t chunk_stride() const { return part_.block_tiles * tile_row; }
  std::int64_t first_vector() const { return part_.first_out / lanes; }
  std::int64_t end_vector() const { return winograd::divided_up(part_.end_out, lanes); }
  float* products(std::int64_t vector, std::int64_t tile) const {
    return part_.products + ((vector - first_vector()) * part_.block_tiles + tile) * product_size;
  }

  PixelPlaces places_of(const Run& run) const {
    const std::int64_t height = problem_.out_height(), width = problem_.out_width();
    const std::int64_t row = run.row * 4, column = run.column * 4;
    return {.first = ((run.image * height + row) * width + column) * problem_.out,
            .pixel = problem_.out,
            .row = width * problem_.out,
            .rows = height - row,
            .columns = width - column};
  }
  static PixelPlaces at_channel(PixelPlaces places, std::int64_t channel) {
    places.first += channel;
    return places;
  }

  /// The next block's x, and this one's y, in as many steps as there are chunks of products.
  Prefetch prefetch_plan(bool last) const {
    const std::int64_t tiles = end_tile_ - first_tile_;
    const std::int64_t steps =
        6 * (end_vector() - first_vector()) * winograd::divided_up(tiles, tiles_at_once) * chunks();
    const double x_bytes = bytes_of(source_.dtype, problem_.height * problem_.width * problem_.in);
    const double y_bytes = bytes_of(sink_.dtype, problem_.out_height() * problem_.out_width() * problem_.out);
    const double of_images = 1.0 / static_cast<double>(tiles_.rows * tiles_.columns);
    const double most = std::max(x_bytes, y_bytes) * of_images * static_cast<double>(tiles) / 64;
    const auto at = [&](const void* tensor, double bytes, std::int64_t tile) {
      return static_cast<const char*>(tensor) +
             static_cast<std::ptrdiff_t>(bytes * of_images * static_cast<double>(tile)) / 64 * 64;
    };
    return {.read = at(source_.x, x_bytes, last ? first_tile_ : end_tile_),
            .write = at(sink_.y, y_bytes, first_tile_),
            .lines = static_cast<std::int64_t>(most / static_cast<double>(steps)) + 1};
  }
  static double bytes_of(DType dtype, std::int64_t elements) {
    return static_cast<double>(size_of(dtype)) * static_cast<double>(elements);
  }

  const Problem& problem_;
  const Tiles tiles_;
  const Source& source_;
  const float* u_;
  const Sink& sink_;
  const ConvolvePart& part_;
  std::int64_t first_tile_, end_tile_;
};

void Convolve(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              ConvolvePart& part) {
  for (std::int64_t tile = part.first_tile; tile < part.end_tile; tile += part.block_tiles) {
    const std::int64_t end = std::min(tile + part.block_tiles, part.end_tile);
    const Block block(problem, source, u, sink, part, tile, end);
    block.transform_input();
    block.multiply(end == part.end_tile);
    const std::int64_t pixels = block.sink();
    if (sink.sums != Sums::none) {
      winograd::fold_block(sink.sums, pixels, part.end_out - part.first_out, part.sums);
    }
  }
}

}  // namespace
}  // namespace fusetape::backends::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu {

HWY_EXPORT(Convolve);

void winograd::convolve_part(const Problem& problem, const Source& source, const float* u, const Sink& sink,
                             ConvolvePart& part) {
  HWY_DYNAMIC_DISPATCH(Convolve)(problem, source, u, sink, part);
}

}  // namespace fusetape::backends::cpu
#endif  // HWY_ONCE
