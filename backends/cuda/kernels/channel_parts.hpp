#pragma once
#include <cstdint>

#include "backends/cuda/phases.hpp"

/// How rows of channels are shared out to threads, for sums over all rows: a thread has one stretch of
/// channels and every few rows; a block has a run of rows, and leaves one partial sum for each channel. The
/// partial sums of all blocks are added in their order: the same bits in every run.
namespace fusetape::backends::cuda {

struct ChannelParts {
  static constexpr unsigned threads = 256;

  std::int64_t rows = 0, channels = 0;
  std::int64_t rows_per_block = 0, blocks = 0;
  unsigned lanes = 1;  ///< stretches of channels in a block, a power of two; threads / lanes rows at a time

  /// `width`: channels of a stretch, 1 or 8.
  static ChannelParts of(std::int64_t rows, std::int64_t channels, int width) {
    ChannelParts parts{.rows = rows, .channels = channels};
    const std::int64_t stretches = (channels + width - 1) / width;
    while (parts.lanes < 32 && parts.lanes < stretches) parts.lanes *= 2;
    // As many blocks as fill a large device, of at least 16 rows a thread where there are so many.
    constexpr std::int64_t most_blocks = 512, rows_of_a_thread = 16;
    const std::int64_t least = rows_of_a_thread * parts.slots();
    parts.rows_per_block = (rows + most_blocks - 1) / most_blocks;
    if (parts.rows_per_block < least) parts.rows_per_block = least;
    parts.blocks = (rows + parts.rows_per_block - 1) / parts.rows_per_block;
    if (parts.blocks < 1) parts.blocks = 1;
    return parts;
  }

  FUSETAPE_HD unsigned slots() const { return threads / lanes; }
  FUSETAPE_HD std::int64_t first_row(std::int64_t block) const { return block * rows_per_block; }
  FUSETAPE_HD std::int64_t end_row(std::int64_t block) const {
    const std::int64_t end = (block + 1) * rows_per_block;
    return end < rows ? end : rows;
  }
  FUSETAPE_HD std::int64_t rows_of_slot(std::int64_t block, unsigned slot) const {
    const std::int64_t left = end_row(block) - first_row(block) - slot;
    return left <= 0 ? 0 : (left + slots() - 1) / slots();
  }
  FUSETAPE_HD std::int64_t rows_of_block(std::int64_t block) const {
    return end_row(block) - first_row(block);
  }

  // A thread has `Width` channels from channel_of() on, of every few rows of its block; what it makes of them
  // it leaves in the block's shared memory, at thread.index * Width. Then the block's channels are shared out
  // again, and each finds its parts there, one for each slot.

  /// Past the last channel: the thread has none.
  template <int Width>
  FUSETAPE_HD std::int64_t channel_of(const Thread& thread) const {
    return (std::int64_t{thread.block_y} * lanes + thread.index % lanes) * Width;
  }
  /// Calls f(at) with the place of the thread's channels in each of its rows.
  template <int Width, class F>
  FUSETAPE_HD void for_rows(const Thread& thread, F f) const {
    const std::int64_t channel = channel_of<Width>(thread), end = end_row(thread.block_x);
    if (channel >= channels) return;
    for (std::int64_t row = first_row(thread.block_x) + thread.index / lanes; row < end; row += slots()) {
      f(row * channels + channel);
    }
  }
  /// Calls f(channel, place) for the thread's share of the block's channels: where the first slot's part is.
  template <int Width, class F>
  FUSETAPE_HD void for_channels(const Thread& thread, F f) const {
    for (unsigned i = thread.index; i < lanes * Width; i += threads) {
      const std::int64_t channel = std::int64_t{thread.block_y} * lanes * Width + i;
      if (channel < channels) f(channel, i);
    }
  }
  /// The sum of all slots' parts, of which `first` is the first.
  template <int Width, class T>
  FUSETAPE_HD double over_slots(const T* first) const {
    double sum = 0;
    for (unsigned slot = 0; slot < slots(); ++slot) sum += static_cast<double>(first[slot * lanes * Width]);
    return sum;
  }

  Grid grid(int width) const {
    const std::int64_t stretches = (channels + width - 1) / width;
    return {.x = blocks, .y = (stretches + lanes - 1) / lanes};
  }
};

/// How the partial sums of `blocks` blocks become one for each channel: eight channels a block, 32 threads
/// for each.
struct ChannelTotals {
  static constexpr unsigned threads = 256, width = 8, slots = threads / width;
  static Grid grid(std::int64_t channels) { return {.x = (channels + width - 1) / width}; }
};

}  // namespace fusetape::backends::cuda
