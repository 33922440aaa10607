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
    const std::int64_t channel = parts.template channel_of<Width>(thread);
    ChainSum<float, Width> sum;
    parts.template for_rows<Width>(thread, [&](std::int64_t at) {
      const Eight g = masked_gradient(args.gradient, {}, at, channel, parts.channels, Width);
      store_eight(args.masked + at, g, Width);
      sum.add(g.at);
    });
    sum.end();
    for (unsigned i = 0; i < Width; ++i) shared.sums[thread.index * Width + i] = sum.total[i];
  }

  FUSETAPE_HD static void join(const Args& args, const Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    parts.template for_channels<Width>(thread, [&](std::int64_t channel, unsigned place) {
      args.sums[std::int64_t{thread.block_x} * parts.channels + channel] =
          parts.template over_slots<Width>(shared.sums + place);
    });
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
