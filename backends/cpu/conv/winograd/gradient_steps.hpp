#pragma once
#include <algorithm>
#include <span>

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

/// Some tiles transformed, 16 channels side by side: floats from row to row of positions, from position to
/// position of a row, from chunk to chunk of channels and from tile to tile.
struct Operand {
  float* at = nullptr;
  std::int64_t row = 0, column = 0, chunk = 0, tile = 0;
};
struct Operands {
  Operand x, dy;  ///< of x, a tile lies beside the next
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

  Operands operands(ScratchCarver& scratch) const {
    const std::int64_t most = std::min(blocking.tiles, tiles.count());
    const std::int64_t count = blocking.passes == 1 ? positions : positions / 3;
    return {.x = take_operand(count, in_chunks, most, scratch),
            .dy = take_operand(count, out_chunks, most, scratch)};
  }

  /// [position][chunk][tile][16]. From position to position it is a vector more than a chunk's tiles need:
  /// with a power of two between them, the 36 places that a tile goes to would share a few sets of the cache.
  static Operand take_operand(std::int64_t count, std::int64_t chunks, std::int64_t most_tiles,
                              ScratchCarver& scratch) {
    const std::int64_t position = (chunks * most_tiles + 1) * chunk;
    return {.at = scratch.take<float>(count * position),
            .row = 6 * position,
            .column = position,
            .chunk = most_tiles * chunk,
            .tile = chunk};
  }
};

/// Transforms the tiles from `begin` to before `end`, in the positions of a pass, to places `first` and on of
/// the operands. `rows`: pixel_scratch floats.
void transform_tiles(const GradientCut& cut, const GradientPass& pass, const GradientSources& from,
                     std::int64_t begin, std::int64_t end, const Operands& to, std::int64_t first,
                     bool writes, float* rows);

/// Transforms the 4×4 pixels of each of those `tiles` from `begin` to before `end`, which cut the image that
/// is x of `image`, to place 0 and on of the operand, in all positions.
void spread_tiles(const Problem& image, const Tiles& tiles, const Source& source, std::int64_t begin,
                  std::int64_t end, const Operand& to, float* rows);

/// Makes, or adds to, the sums of a block of channels at the pass's positions: the products over the first
/// `tiles` of the operands.
void multiply_tiles(const GradientPass& pass, const Operands& from, std::int64_t tiles,
                    const ChannelBlock& channels, bool add, float* sums, BothAhead ahead);

/// total = the sum of what stands at `at` in each of the parts, `count` floats, in their order. All 64-byte
/// aligned, whole vectors.
void add_parts(std::span<const float* const> parts, std::int64_t at, std::int64_t count, float* total);

/// Writes the weights of a block of channels: its sums transformed back. `turned`: by half a circle.
void write_weights(const Problem& problem, const ChannelBlock& channels, const float* sums, bool turned,
                   void* dw, DType dtype);

/// Adds up the sums of all parts, all channels of each, and writes the weights. Each room begins with
/// chunk_sums floats for the purpose.
void join_parts(const GradientCut& cut, std::span<const float* const> parts, bool turned,
                const WeightGradient& weights, int threads, plan::Rooms rooms);

}  // namespace fusetape::backends::cpu::conv::winograd
