#pragma once
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/conv/winograd/gradient_steps.hpp"

/// A thread's share of a convolution, and what may be done beside it.
namespace fusetape::backends::cpu::conv::winograd {

/// One thread's sums, a value for each of its outputs, with room for whole chunks. f32 within a block of
/// tiles, in which each tile and each run of tiles is summed for itself; then doubles.
struct PartSums {
  float* shift = nullptr;  ///< moments: subtracted from what is summed; the mean of the blocks before
  float *block_first = nullptr, *block_second = nullptr;  ///< 0 before a block
  double *first = nullptr, *second = nullptr;             ///< as in Sink
  std::int64_t* pixels = nullptr;                         ///< that they are of
};

/// What the same thread does with each block of tiles, beside the convolution, while it has them transformed.
class Companion {
 public:
  virtual ~Companion() = default;
  /// What it reads of the same tiles, 4×4 pixels each.
  virtual const Source& source() const = 0;
  /// The tiles from `begin` to before `end`, transformed to place 0 and on.
  virtual void take(int part, std::int64_t begin, std::int64_t end, const Operand& transformed) = 0;
};

struct ConvolvePart {
  int index = 0;
  std::int64_t first_tile = 0, end_tile = 0;
  std::int64_t first_out = 0, end_out = 0;  ///< to before end_out: a chunk's first, or how many there are
  std::int64_t block_tiles = 0;             ///< a multiple of tile_group
  bool writes_source = false;
  float* transformed = nullptr;  ///< [6][chunk][tile][6][chunk]
  float* products = nullptr;     ///< [vector of out][tile][6][4][lanes]
  float* rows = nullptr;         ///< for transform_run
  PartSums sums;
  std::size_t room_bytes = 0;
  Companion* companion = nullptr;  ///< or none
};

/// Each thread has a range of tiles and a range of outputs.
struct Shares {
  std::int64_t tiles, outs;
  int tile_parts, out_parts;
  std::int64_t block_tiles;

  Shares(const Problem& problem, const Blocking& blocking, int threads)
      : tiles(Tiles(problem).count()), outs(problem.out) {
    out_parts =
        static_cast<int>(std::min<std::int64_t>({blocking.out_parts, threads, divided_up(outs, chunk)}));
    tile_parts = static_cast<int>(std::min<std::int64_t>(threads / out_parts, divided_up(tiles, tile_group)));
    block_tiles = std::min(rounded_up(blocking.tiles, tile_group),
                           divided_up(divided_up(tiles, tile_group), tile_parts) * tile_group);
  }

  int parts() const { return tile_parts * out_parts; }
  std::int64_t tile_begin(int tile_part) const {
    return std::min(tiles, divided_up(tiles, tile_group) * tile_part / tile_parts * tile_group);
  }
  std::int64_t out_begin(int out_part) const {
    return std::min(outs, divided_up(outs, chunk) * out_part / out_parts * chunk);
  }
  /// Room for the outputs of any part.
  std::int64_t most_outs() const { return divided_up(divided_up(outs, chunk), out_parts) * chunk; }
};

/// Adds the sums of a block of so many pixels to those in doubles, and sets them to 0.
void fold_block(Sums kind, std::int64_t pixels, std::int64_t outs, const PartSums& sums);

void convolve_part(const Problem& problem, const Source& source, const float* u, const Sink& sink,
                   const ConvolvePart& part);

/// As `convolve` of winograd.hpp, with a companion or null.
void convolve_with(Companion* companion, const Problem& problem, const Source& source, const float* u,
                   const Sink& sink, const Blocking& blocking, int threads, plan::Rooms rooms);

}  // namespace fusetape::backends::cpu::conv::winograd
