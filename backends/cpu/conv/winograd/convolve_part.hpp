#pragma once
#include "backends/cpu/conv/winograd/tiles.hpp"

/// A thread's share of a convolution.
namespace fusetape::backends::cpu::conv::winograd {

/// One thread's sums, a value for each of its outputs, with room for whole chunks. f32 within a block of
/// tiles, in which each tile and each run of tiles is summed for itself; then doubles.
struct PartSums {
  float* shift = nullptr;  ///< moments: subtracted from what is summed; the mean of the blocks before
  float *block_first = nullptr, *block_second = nullptr;  ///< 0 before a block
  double *first = nullptr, *second = nullptr;             ///< as in Sink
  std::int64_t pixels = 0;                                ///< that they are of
};

struct ConvolvePart {
  std::int64_t first_tile = 0, end_tile = 0;
  std::int64_t first_out = 0, end_out = 0;  ///< to before end_out: a chunk's first, or how many there are
  std::int64_t block_tiles = 0;             ///< a multiple of 4
  bool writes_source = false;
  float* transformed = nullptr;  ///< [6][chunk][tile][6][chunk]
  float* products = nullptr;     ///< [vector of out][tile][6][4][lanes]
  float* rows = nullptr;         ///< for transform_run
  PartSums sums;
};

/// Adds the sums of a block of so many pixels to those in doubles, and sets them to 0.
void fold_block(Sums kind, std::int64_t pixels, std::int64_t outs, PartSums& sums);

void convolve_part(const Problem& problem, const Source& source, const float* u, const Sink& sink,
                   ConvolvePart& part);

}  // namespace fusetape::backends::cpu::conv::winograd
