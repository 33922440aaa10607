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

/// A thread's part of a convolution, block by block, through three steps.
class Convolution {
  // Sums over more channels at a time lose digits.
  static constexpr std::int64_t summed_channels = 64;

 public:
  Convolution(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              ConvolvePart& part)
      : problem_(problem),
        tiles_(problem),
        source_(source),
        u_(u),
        sink_(sink),
        part_(part),
        chunks_(winograd::divided_up(problem.in, winograd::chunk)),
        chunk_stride_(part.block_tiles * tile_row),
        first_vector_(part.first_out / lanes),
        end_vector_(winograd::divided_up(part.end_out, lanes)) {
    plan_prefetches();
  }

  void run() {
    for (std::int64_t tile = part_.first_tile; tile < part_.end_tile; tile += part_.block_tiles) {
      const std::int64_t end = std::min(tile + part_.block_tiles, part_.end_tile);
      transform_input(tile, end);
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

  template <bool FetchesWeights, bool Few>
  static auto multiplying(bool adds) {
    return adds ? multiply_row<FetchesWeights, Few, true> : multiply_row<FetchesWeights, Few, false>;
  }

  /// How far the streams are fetched, and the weights.
  struct Ahead {
    Streams streams;
    std::ptrdiff_t offset = 0;
    const float *weights = nullptr, *weights_end = nullptr;
  };

  void multiply(std::int64_t first_tile, std::int64_t end_tile) const {
    Ahead ahead{.streams = streams(first_tile, end_tile)};
    for (std::int64_t row = 0; row < winograd::transformed_size; ++row) {
      for (std::int64_t vector = first_vector_; vector < end_vector_; ++vector) {
        const bool last = vector + 1 == end_vector_;
        ahead.weights = last ? weights(first_vector_, (row + 1) % 6) : weights(vector + 1, row);
        ahead.weights_end = ahead.weights + problem_.in * 6 * lanes;
        for (std::int64_t channel = 0; channel < problem_.in; channel += summed_channels) {
          multiply_slice(end_tile - first_tile, row, vector, channel, ahead);
        }
      }
    }
  }

  /// Some channels of a row of positions, for a vector of outputs.
  void multiply_slice(std::int64_t tiles, std::int64_t row, std::int64_t vector, std::int64_t channel,
                      Ahead& ahead) const {
    const std::int64_t channels = std::min(summed_channels, problem_.in - channel);
    const float* v = part_.transformed + (row * chunks_ + channel / winograd::chunk) * chunk_stride_;
    const float* u = weights(vector, row) + channel * 6 * lanes;
    const std::int64_t fetched = lines_ * winograd::divided_up(channels, winograd::chunk) * 64;
    const bool adds = channel > 0;
    for (std::int64_t t = 0; t < tiles; t += tiles_at_once) {
      const bool fetches = fetches_weights_ && ahead.weights < ahead.weights_end;
      const auto multiply = fetches             ? multiplying<true, false>(adds)
                            : ahead.streams.few ? multiplying<false, true>(adds)
                                                : multiplying<false, false>(adds);
      multiply(v + t * tile_row, u, channels, chunk_stride_, products(vector, t) + row * 4 * lanes,
               ahead.streams, ahead.offset, lines_, ahead.weights);
      if (fetches) ahead.weights += channels * 16;
      ahead.offset += fetched;
    }
  }

  const float* weights(std::int64_t vector, std::int64_t row) const {
    return u_ + (vector * 6 + row) * problem_.in * 6 * lanes;
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

  /// A block's x and y, as if the tiles were spread evenly over them, in as many steps as there are chunks of
  /// products. Weights are fetched where they will not stay in L2.
  void plan_prefetches() {
    const double images = static_cast<double>(problem_.batch * problem_.height * problem_.width);
    const double out_images =
        static_cast<double>(problem_.batch * problem_.out_height() * problem_.out_width());
    const double tiles = static_cast<double>(tiles_.count());
    x_bytes_ =
        images * static_cast<double>(problem_.in) * static_cast<double>(size_of(source_.dtype)) / tiles;
    y_bytes_ =
        out_images * static_cast<double>(problem_.out) * static_cast<double>(size_of(sink_.dtype)) / tiles;
    const double steps = static_cast<double>(6 * (end_vector_ - first_vector_) * chunks_) / tiles_at_once;
    lines_ = static_cast<std::int64_t>(std::max(x_bytes_, y_bytes_) / 64 / steps) + 1;
    fetches_weights_ = problem_.in * problem_.out >= 128 * 128;
  }

  /// Of the next block what the source reads and writes: the first two rows of a tile are the last of the
  /// tile above it. Of this block what the sink does.
  Streams streams(std::int64_t first_tile, std::int64_t end_tile) const {
    const auto at = [](const void* tensor, double bytes, std::int64_t tile) {
      const auto offset = static_cast<std::ptrdiff_t>(bytes * static_cast<double>(tile));
      return static_cast<const char*>(tensor) + offset / 64 * 64;
    };
    const bool last = end_tile == part_.end_tile;
    const std::int64_t rows_seen = (2 - problem_.pad) * problem_.width * problem_.in;
    const std::int64_t seen = last ? 0 : rows_seen * static_cast<std::int64_t>(size_of(source_.dtype));
    const auto next = [&](const void* x) { return at(x, x_bytes_, last ? first_tile : end_tile) + seen; };
    const auto here = [&](const void* y) { return at(y, y_bytes_, first_tile); };
    const void* const mask = sink_.mask_y != nullptr ? sink_.mask_y : sink_.mask_x;
    const void* const inner = sink_.norm_x != nullptr ? sink_.norm_x : mask;

    Streams streams;
    streams.few =
        source_.x2 == nullptr && source_.written == nullptr && sink_.z == nullptr && inner == nullptr;
    streams.read[0] = next(source_.x);
    streams.read[1] = source_.x2 != nullptr ? next(source_.x2) : streams.read[0];
    streams.read[2] = sink_.z != nullptr ? here(sink_.z) : streams.read[0];
    streams.read[3] = inner != nullptr ? here(inner) : streams.read[0];
    streams.write[0] = here(sink_.y);
    streams.write[1] = source_.written != nullptr ? next(source_.written)
                       : mask != inner            ? here(mask)
                                                  : streams.write[0];
    return streams;
  }

  const Problem& problem_;
  const Tiles tiles_;
  const Source& source_;
  const float* u_;
  const Sink& sink_;
  ConvolvePart& part_;
  std::int64_t chunks_, chunk_stride_, first_vector_, end_vector_;
  double x_bytes_ = 0, y_bytes_ = 0;  ///< of a tile
  std::int64_t lines_ = 0;
  bool fetches_weights_ = false;
};

void Convolve(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              ConvolvePart& part) {
  Convolution(problem, source, u, sink, part).run();
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
