#include <cmath>

#include "backends/cpu/conv/winograd/convolve_part.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/conv/winograd/convolve_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/conv/winograd/input_transform-inl.hpp"
#include "backends/cpu/conv/winograd/output_transform-inl.hpp"
#include "backends/cpu/conv/winograd/products-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

using winograd::ConvolvePart;
using winograd::Problem;
using winograd::Run;
using winograd::Source;
using winograd::Tiles;

/// A thread's part of a convolution, block by block, through three steps.
class Convolution {
 public:
  Convolution(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              const ConvolvePart& part)
      : problem_(problem),
        tiles_(problem),
        source_(source),
        u_(u),
        sink_(sink),
        part_(part),
        chunks_(winograd::divided_up(problem.in, winograd::chunk)),
        chunk_stride_(part.block_tiles * tile_row),
        vector_stride_(problem.in * 3 * lanes),
        first_vector_(part.first_out / lanes),
        end_vector_(winograd::divided_up(part.end_out, lanes)) {
    plan_prefetches();
  }

  void run() {
    for (std::int64_t tile = part_.first_tile; tile < part_.end_tile; tile += part_.block_tiles) {
      const std::int64_t end = std::min(tile + part_.block_tiles, part_.end_tile);
      transform_input(tile, end);
      if (part_.companion != nullptr) part_.companion->take(part_.index, tile, end, transformed());
      multiply(tile, end);
      sink(tile, end);
      if (sink_.sums == Sums::none) continue;
      winograd::fold_block(sink_.sums, pixels(tile, end), part_.end_out - part_.first_out, part_.sums);
    }
  }

 private:
  void transform_input(std::int64_t first_tile, std::int64_t end_tile) const {
    const SideBySide strides{.row = chunks_ * chunk_stride_};
    tiles_.for_runs(first_tile, end_tile, [&](const Run& run) {
      for (std::int64_t i = 0; i < chunks_; ++i) {
        transform_run<all_rows>(problem_, tiles_, source_, run, i * winograd::chunk, part_.writes_source,
                                strides, part_.transformed + i * chunk_stride_ + run.first * tile_row,
                                part_.rows);
      }
    });
  }

  winograd::Operand transformed() const {
    return {.at = part_.transformed,
            .row = chunks_ * chunk_stride_,
            .column = winograd::chunk,
            .chunk = chunk_stride_,
            .tile = tile_row};
  }

  /// What is fetched ahead while a block is multiplied: images, at an even pace, and the weights to come.
  struct Ahead {
    struct Stretch {
      const char* at;
      std::ptrdiff_t bytes;
    };
    Stretch images[11] = {};
    int count = 0, current = 0;
    int images_at_once = 0;  ///< stretches for each product
    const float *weights = nullptr, *weights_end = nullptr;

    void add(const char* at, double bytes) { images[count++] = {at, static_cast<std::ptrdiff_t>(bytes)}; }
    /// For a product of so many channels. After the last stretch its end again and again: what has been
    /// fetched costs little, and a change of mind more.
    Fetched next(std::int64_t channels) {
      Fetched lines;
      int place = 0;
      for (; place < images_at_once; ++place) {
        Stretch& stretch = images[current];
        lines.at[place] = stretch.at;
        if (stretch.bytes > channels * 64) {
          stretch = {stretch.at + channels * 64, stretch.bytes - channels * 64};
        } else if (current + 1 < count) {
          ++current;
        }
      }
      if (weights == nullptr) return lines;
      lines.at[place] = reinterpret_cast<const char*>(weights);
      if (weights < weights_end) weights += channels * 16;
      return lines;
    }
  };

  /// Half a row of positions at a time, for which the tiles stay in L1 while the weights go by.
  void multiply(std::int64_t first_tile, std::int64_t end_tile) const {
    Ahead ahead = images_ahead(first_tile, end_tile);
    for (std::int64_t half = 0; half < winograd::weight_parts; ++half) {
      for (std::int64_t vector = first_vector_; vector < end_vector_; vector += 2) {
        const std::int64_t vectors = std::min<std::int64_t>(2, end_vector_ - vector);
        if (fetches_weights_) {
          const bool last = vector + 2 >= end_vector_;
          ahead.weights =
              last ? weights(first_vector_, (half + 1) % winograd::weight_parts) : weights(vector + 2, half);
          ahead.weights_end = ahead.weights + vectors * vector_stride_;
        }
        for (std::int64_t channel = 0; channel < problem_.in; channel += winograd::most_channels_in_sum) {
          multiply_slice(end_tile - first_tile, half, vector, vectors, channel, ahead);
        }
      }
    }
  }

  template <int Vectors, int Half>
  static auto multiply_of(int fetched) {
    static constexpr decltype(&multiply_half<1, 0, 0>) of[] = {
        multiply_half<Vectors, Half, 0>, multiply_half<Vectors, Half, 1>, multiply_half<Vectors, Half, 2>,
        multiply_half<Vectors, Half, 3>, multiply_half<Vectors, Half, 4>};
    return of[fetched];
  }

  /// Some channels of half a row of positions, for one or two vectors of outputs.
  void multiply_slice(std::int64_t tiles, std::int64_t half, std::int64_t vector, std::int64_t vectors,
                      std::int64_t channel, Ahead& ahead) const {
    const std::int64_t channels = std::min(winograd::most_channels_in_sum, problem_.in - channel);
    const std::int64_t row = half / 2, first_column = half % 2 * 3;
    ProductPlaces at = {
        .v = part_.transformed + (row * chunks_ + channel / winograd::chunk) * chunk_stride_ +
             first_column * winograd::chunk,
        .chunk_stride = chunk_stride_,
        .u = weights(vector, half) + channel * 3 * lanes,
        .vector_stride = vector_stride_,
        .products = products(vector, 0) + row * 4 * lanes,
        .products_stride = products(1, 0) - products(0, 0),
    };
    const int fetched = ahead.images_at_once + (fetches_weights_ ? 1 : 0);
    const auto multiply = vectors == 2
                              ? (half % 2 == 0 ? multiply_of<2, 0>(fetched) : multiply_of<2, 1>(fetched))
                              : (half % 2 == 0 ? multiply_of<1, 0>(fetched) : multiply_of<1, 1>(fetched));
    const std::int64_t at_once = vectors == 2 ? tiles_of_pair : tiles_of_one;
    for (std::int64_t t = 0; t < tiles; t += at_once) {
      multiply(at, channels, channel > 0, ahead.next(channels));
      at.v += at_once * tile_row;
      at.products += at_once * product_size;
    }
  }

  const float* weights(std::int64_t vector, std::int64_t half) const {
    return u_ + (half * winograd::divided_up(problem_.out, lanes) + vector) * vector_stride_;
  }

  void sink(std::int64_t first_tile, std::int64_t end_tile) const {
    for (std::int64_t vector = first_vector_; vector < end_vector_; ++vector) {
      const std::int64_t channel = vector * lanes;
      const Sinking block{.problem = problem_,
                          .tiles = tiles_,
                          .first_tile = first_tile,
                          .end_tile = end_tile,
                          .channel = channel,
                          .products = products(vector, 0),
                          .sums = part_.sums,
                          .sums_place = channel - part_.first_out};
      sink_block(sink_, part_.end_out - channel, block);
    }
  }

  std::int64_t pixels(std::int64_t first_tile, std::int64_t end_tile) const {
    std::int64_t pixels = 0;
    tiles_.for_runs(first_tile, end_tile, [&](const Run& run) {
      pixels += std::min<std::int64_t>(4, problem_.out_height() - run.row * 4) *
                std::min(4 * run.count, problem_.out_width() - run.column * 4);
    });
    return pixels;
  }

  float* products(std::int64_t vector, std::int64_t tile) const {
    return part_.products + ((vector - first_vector_) * part_.block_tiles + tile) * product_size;
  }

  /// A tile's share of x and y, as if the tiles were spread evenly over them. Weights are fetched where they
  /// will not stay in L2.
  void plan_prefetches() {
    const double images = static_cast<double>(problem_.batch * problem_.height * problem_.width);
    const double out_images =
        static_cast<double>(problem_.batch * problem_.out_height() * problem_.out_width());
    const double tiles = static_cast<double>(tiles_.count());
    x_bytes_ =
        images * static_cast<double>(problem_.in) * static_cast<double>(size_of(source_.dtype)) / tiles;
    y_bytes_ =
        out_images * static_cast<double>(problem_.out) * static_cast<double>(size_of(sink_.dtype)) / tiles;
    fetches_weights_ = problem_.in * problem_.out >= 128 * 128;
  }

  /// First what the sources will read and write of the next block, of which the first two rows are the last
  /// of the tiles above it (a companion's are not); then what the sink will of this block, which is used
  /// first and so is to come last.
  Ahead images_ahead(std::int64_t first_tile, std::int64_t end_tile) const {
    Ahead ahead;
    const double tiles = static_cast<double>(end_tile - first_tile);
    const double next_tiles = static_cast<double>(std::min(part_.block_tiles, part_.end_tile - end_tile));
    const std::int64_t rows_seen = (2 - problem_.pad) * problem_.width * problem_.in;
    const std::int64_t seen = rows_seen * static_cast<std::int64_t>(size_of(source_.dtype));
    for (const void* x : {source_.x, source_.x2, static_cast<const void*>(source_.written)}) {
      if (x != nullptr && next_tiles > 0) ahead.add(at(x, x_bytes_, end_tile) + seen, x_bytes_ * next_tiles);
    }
    if (part_.companion != nullptr && next_tiles > 0) {
      const Source& beside = part_.companion->source();
      for (const void* x : {beside.x, beside.x2, static_cast<const void*>(beside.written)}) {
        if (x != nullptr) ahead.add(at(x, y_bytes_, end_tile), y_bytes_ * next_tiles);
      }
    }
    const void* const norm_x = sink_.norm_x != sink_.mask_x ? sink_.norm_x : nullptr;
    for (const void* y : {static_cast<const void*>(sink_.y), sink_.z, sink_.mask_y, sink_.mask_x, norm_x}) {
      if (y != nullptr && !read_beside(y)) ahead.add(at(y, y_bytes_, first_tile), y_bytes_ * tiles);
    }
    double lines = 0;
    for (const Ahead::Stretch& stretch : ahead.images) lines += static_cast<double>(stretch.bytes) / 64;
    const std::int64_t products = winograd::transformed_size * (end_vector_ - first_vector_) *
                                  winograd::divided_up(end_tile - first_tile, tiles_of_pair);
    const int most = fetches_weights_ ? most_fetched - 1 : most_fetched;
    const double at_once = std::ceil(lines / static_cast<double>(products * problem_.in));
    ahead.images_at_once = std::min(most, static_cast<int>(at_once));
    return ahead;
  }

  /// Whether the companion has just read the same pixels.
  bool read_beside(const void* tensor) const {
    if (part_.companion == nullptr) return false;
    const Source& beside = part_.companion->source();
    return tensor == beside.x || tensor == beside.x2;
  }

  static const char* at(const void* tensor, double bytes, std::int64_t tile) {
    const auto offset = static_cast<std::ptrdiff_t>(bytes * static_cast<double>(tile));
    return static_cast<const char*>(tensor) + offset / 64 * 64;
  }

  const Problem& problem_;
  const Tiles tiles_;
  const Source& source_;
  const float* u_;
  const Sink& sink_;
  const ConvolvePart& part_;
  std::int64_t chunks_, chunk_stride_, vector_stride_, first_vector_, end_vector_;
  double x_bytes_ = 0, y_bytes_ = 0;  ///< of a tile
  bool fetches_weights_ = false;
};

void Convolve(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              const ConvolvePart& part) {
  Convolution(problem, source, u, sink, part).run();
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(Convolve);

void winograd::convolve_part(const Problem& problem, const Source& source, const float* u, const Sink& sink,
                             const ConvolvePart& part) {
  HWY_DYNAMIC_DISPATCH(Convolve)(problem, source, u, sink, part);
}

}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
