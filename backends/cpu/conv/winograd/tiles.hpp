#pragma once
#include <algorithm>
#include <cstdint>

#include "backends/cpu/conv/winograd/winograd.hpp"

/// How images are cut into 4×4 tiles of y, and their channels into chunks. A tile reads 6×6 pixels of x; one
/// that overhangs the image reads zeros there and stores nothing.
namespace fusetape::backends::cpu::conv::winograd {

constexpr std::int64_t tile_size = 4;
constexpr std::int64_t transformed_size = 6;                             ///< each way: 36 positions a tile
constexpr std::int64_t weight_parts = 2 * transformed_size;              ///< half rows of positions
constexpr std::int64_t positions = transformed_size * transformed_size;  ///< of a tile
constexpr std::int64_t half_inverted = transformed_size * tile_size;  ///< numbers left halfway back to pixels
constexpr std::int64_t chunk = 16;                 ///< channels that stand together in what is transformed
constexpr std::int64_t tile_group = 8;             ///< so many are multiplied at a time, at most
constexpr std::int64_t most_in_run = 8;            ///< so that the pixels of a run stay in L1
constexpr std::int64_t most_channels_in_sum = 64;  ///< sums over more channels at a time lose digits

constexpr std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t rounded_up(std::int64_t a, std::int64_t b) { return divided_up(a, b) * b; }

/// Tiles side by side in one image; `first` counts from the beginning of the block.
struct Run {
  std::int64_t image = 0, row = 0, column = 0;  ///< of tiles
  std::int64_t first = 0, count = 0;
};

/// Every tile of a batch, image by image and row by row.
struct Tiles {
  std::int64_t batch, rows, columns;
  explicit Tiles(const Problem& problem)
      : batch(problem.batch),
        rows(divided_up(problem.out_height(), tile_size)),
        columns(divided_up(problem.out_width(), tile_size)) {}

  std::int64_t count() const { return batch * rows * columns; }

  /// Calls f(Run) for the tiles from `begin` to before `end`, in order.
  template <class F>
  void for_runs(std::int64_t begin, std::int64_t end, F&& f) const {
    for (Run run = first_run(begin, end); run.count > 0; run = next_run(run, end - begin)) f(run);
  }

  /// The same as a loop's parts. `tiles`: of all runs.
  Run first_run(std::int64_t begin, std::int64_t end) const {
    const std::int64_t row = begin / columns, image = row / rows;
    return cut({.image = image, .row = row - image * rows, .column = begin - row * columns}, end - begin);
  }
  Run next_run(Run run, std::int64_t tiles) const {
    run.first += run.count;
    run.column += run.count;
    if (run.column == columns) {
      run.column = 0;
      ++run.row;
    }
    if (run.row == rows) {
      run.row = 0;
      ++run.image;
    }
    return cut(run, tiles);
  }

 private:
  Run cut(Run run, std::int64_t tiles) const {
    run.count = std::min({columns - run.column, tiles - run.first, most_in_run});
    return run;
  }
};

/// Of the products of all tiles: 36 where a direct convolution has 4·4·9. The transforms are beside them.
inline double product_flops(const Problem& problem) {
  const std::int64_t products = Tiles(problem).count() * positions * problem.in * problem.out;
  return 2 * static_cast<double>(products);
}

/// A rectangle of one image's pixels; it may lie outside in part.
struct Rectangle {
  std::int64_t image = 0, row = 0, column = 0, rows = 0, columns = 0;
};

/// The pixels of x that the tiles of a run read.
inline Rectangle pixels_read(const Run& run, int pad) {
  return {.image = run.image,
          .row = run.row * tile_size - pad,
          .column = run.column * tile_size - pad,
          .rows = transformed_size,
          .columns = run.count * tile_size + 2};
}

/// Floats of a chunk of channels of them: what transforms want as scratch, 64-byte aligned.
constexpr std::int64_t pixel_scratch = transformed_size * (most_in_run * tile_size + 2) * chunk;

/// Those of them that no other run has: every pixel of x belongs to one run.
inline Rectangle pixels_owned(const Problem& problem, const Tiles& tiles, const Run& run) {
  const auto begin = [&](std::int64_t tile) {
    return std::max<std::int64_t>(0, tile * tile_size - problem.pad);
  };
  const auto end = [&](std::int64_t tile, std::int64_t tile_count, std::int64_t extent) {
    return tile == tile_count ? extent : tile * tile_size - problem.pad;
  };
  const std::int64_t row = begin(run.row), column = begin(run.column);
  return {.image = run.image,
          .row = row,
          .column = column,
          .rows = end(run.row + 1, tiles.rows, problem.height) - row,
          .columns = end(run.column + run.count, tiles.columns, problem.width) - column};
}

}  // namespace fusetape::backends::cpu::conv::winograd
