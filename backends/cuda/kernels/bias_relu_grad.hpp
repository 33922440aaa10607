#pragma once
#include "backends/cuda/kernels/norm_backward.hpp"

/// g' = g·mask and Σg' of each channel, in one pass; the partial sums of all blocks are added in their order.
namespace fusetape::backends::cuda {

/// g', and its sums over the rows of a block. Width channels a thread: 8 where all rows start on a boundary
/// of 16 bytes, else 1.
template <class T, int Width>
struct BiasReluGrad {
  struct Args {
    MaskedGradient<T> gradient;
    T* masked;
    double* sums;  ///< {blocks, channels}
    ChannelParts parts;
  };
  struct Shared {
    float sums[ChannelParts::threads * Width];
  };
  using Local = Nothing;
  static std::string name() {
    return std::string("bias_relu_grad<") + type_name<T> + ", " + std::to_string(Width) + ">";
  }
  static constexpr unsigned threads = ChannelParts::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    phase == 0 ? mask(args, shared, thread) : join(args, shared, thread);
  }

 private:
  FUSETAPE_HD static void mask(const Args& args, Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    const unsigned lane = thread.index % parts.lanes, slot = thread.index / parts.lanes;
    const std::int64_t channel = (static_cast<std::int64_t>(thread.block_y) * parts.lanes + lane) * Width;
    const std::int64_t end = parts.end_row(thread.block_x);
    Eight sum{};
    if (channel < parts.channels) {
      for (std::int64_t row = parts.first_row(thread.block_x) + slot; row < end; row += parts.slots()) {
        const std::int64_t at = row * parts.channels + channel;
        const Eight g = masked_gradient(args.gradient, {}, at, channel, parts.channels, Width);
        store_eight(args.masked + at, g, Width);
        for (int i = 0; i < Width; ++i) sum.at[i] += g.at[i];
      }
    }
    const unsigned to = (slot * parts.lanes + lane) * Width;
    for (unsigned i = 0; i < Width; ++i) shared.sums[to + i] = sum.at[i];
  }

  FUSETAPE_HD static void join(const Args& args, const Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    const unsigned row = parts.lanes * Width;
    for (unsigned i = thread.index; i < row; i += threads) {
      const std::int64_t channel = static_cast<std::int64_t>(thread.block_y) * row + i;
      if (channel >= parts.channels) continue;
      double sum = 0;
      for (unsigned slot = 0; slot < parts.slots(); ++slot) {
        sum += static_cast<double>(shared.sums[slot * row + i]);
      }
      args.sums[static_cast<std::int64_t>(thread.block_x) * parts.channels + channel] = sum;
    }
  }
};

/// The partial sums of all blocks become one for each channel.
template <class T>
struct ChannelSums {
  struct Args {
    const double* partial;  ///< {blocks, channels}
    T* sums;
    std::int64_t blocks, channels;
  };
  struct Shared {
    double sums[ChannelTotals::threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("channel_sums<") + type_name<T> + ">"; }
  static constexpr unsigned threads = ChannelTotals::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned slot = thread.index / ChannelTotals::width, lane = thread.index % ChannelTotals::width;
    const std::int64_t channel = static_cast<std::int64_t>(thread.block_x) * ChannelTotals::width + lane;
    if (channel >= args.channels) return;
    double sum = 0;
    if (phase == 0) {
      for (std::int64_t block = slot; block < args.blocks; block += ChannelTotals::slots) {
        sum += args.partial[block * args.channels + channel];
      }
      shared.sums[thread.index] = sum;
    } else if (slot == 0) {
      for (unsigned i = 0; i < ChannelTotals::slots; ++i) sum += shared.sums[i * ChannelTotals::width + lane];
      args.sums[channel] = from_float<T>(static_cast<float>(sum));
    }
  }
};

}  // namespace fusetape::backends::cuda
