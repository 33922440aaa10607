#pragma once
#include <algorithm>

#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/conv/winograd/gradient_ahead.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"
#include "backends/cpu/conv/winograd/weight_gradient.hpp"

/// How a weight gradient is cut into blocks of tiles and of channels, and the steps that work on a block.
namespace fusetape::backends::cpu::conv::winograd {

/// Sums of all positions, of a chunk of each operand: [position][16 out][16 in].
constexpr std::int64_t chunk_sums = positions * chunk * chunk;

// Many short sums are more exact than a long one: of a long sum in f32, the last addends lose the most.
constexpr std::int64_t most_tiles_in_sum = 64;    ///< before they are added to other sums
constexpr std::int64_t most_blocks_in_part = 64;  ///< by tiles: of a sum of its own

/// Rows of positions that are computed in one pass over the tiles.
struct GradientPass {
  int count;  ///< of rows
  int row[transformed_size];
};
constexpr GradientPass whole_pass = {6, {0, 1, 2, 3, 4, 5}};
constexpr GradientPass short_passes[3] = {{2, {1, 2}}, {2, {3, 4}}, {2, {0, 5}}};

/// Both operands of some tiles, transformed: [position of the pass][chunk][tile][16].
struct Operands {
  float *x = nullptr, *dy = nullptr;
  std::int64_t tiles = 0;                    ///< from chunk to chunk
  std::int64_t x_stride = 0, dy_stride = 0;  ///< from position to position
};

/// Chunks of both operands. The sums of a block stand pair by pair, those of an out chunk together.
struct ChannelBlock {
  std::int64_t out_begin, out_end, in_begin, in_end;
  std::int64_t pairs() const { return (out_end - out_begin) * (in_end - in_begin); }
  std::int64_t sums_size() const { return pairs() * chunk_sums; }
  std::int64_t sums_at(std::int64_t out, std::int64_t in) const {
    return ((out - out_begin) * (in_end - in_begin) + in - in_begin) * chunk_sums;
  }
};

/// The pixels of dy that are a run's tiles.
inline Rectangle gradient_pixels(const Run& run) {
  return {.image = run.image,
          .row = run.row * tile_size,
          .column = run.column * tile_size,
          .rows = tile_size,
          .columns = run.count * tile_size};
}

struct GradientCut {
  Problem problem;
  Tiles tiles;
  GradientBlocking blocking;
  std::int64_t blocks;  ///< of tiles
  std::int64_t in_chunks, out_chunks;

  GradientCut(const Problem& p, const GradientBlocking& b)
      : problem(p),
        tiles(p),
        blocking(b),
        blocks(divided_up(tiles.count(), b.tiles)),
        in_chunks(divided_up(p.in, chunk)),
        out_chunks(divided_up(p.out, chunk)) {}

  std::int64_t begin_of(std::int64_t block) const { return std::min(block * blocking.tiles, tiles.count()); }
  /// By tiles: the parts that the sum over all blocks has, as many for each of the threads that work on it.
  std::int64_t parts(int workers) const {
    return rounded_up(divided_up(blocks, most_blocks_in_part), workers);
  }
  ChannelBlock all_channels() const { return {0, out_chunks, 0, in_chunks}; }

  /// From position to position it is a vector more than a chunk's tiles need: with a power of two between
  /// them, the 36 places that a tile goes to would share a few sets of the cache.
  Operands operands(ScratchCarver& scratch) const {
    Operands o{.tiles = std::min(blocking.tiles, tiles.count())};
    o.x_stride = (in_chunks * o.tiles + 1) * chunk;
    o.dy_stride = (out_chunks * o.tiles + 1) * chunk;
    const std::int64_t count = blocking.passes == 1 ? positions : positions / 3;
    o.x = scratch.take<float>(count * o.x_stride);
    o.dy = scratch.take<float>(count * o.dy_stride);
    return o;
  }
};

/// Transforms the tiles from `begin` to before `end`, in the positions of a pass, to places `first` and on of
/// the operands. `rows`: pixel_scratch floats.
void transform_tiles(const GradientCut& cut, const GradientPass& pass, const GradientSources& from,
                     std::int64_t begin, std::int64_t end, const Operands& to, std::int64_t first,
                     bool writes, float* rows);

/// Makes, or adds to, the sums of a block of channels at the pass's positions: the products over the first
/// `tiles` of the operands.
void multiply_tiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                    const ChannelBlock& channels, bool add, float* sums, BothAhead ahead);

/// total = the sum of `parts` arrays of `count` floats, `part_stride` apart, in their order. All 64-byte
/// aligned, whole vectors.
void add_parts(const float* sums, int parts, std::int64_t part_stride, std::int64_t count, float* total);

/// Writes the weights of a block of channels: its sums transformed back.
void write_weights(const Problem& problem, const ChannelBlock& channels, const float* sums, void* dw,
                   DType dtype);

}  // namespace fusetape::backends::cpu::conv::winograd
