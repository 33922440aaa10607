#pragma once
#include <type_traits>

#include "backends/cuda/kernels/channel_parts.hpp"
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/kernels/lines.hpp"

/// Sums over axes, divided by `divisor`. Elements are added in f32 by eights, or by a few rows, and those
/// sums in double, always in the same order. Where several blocks share a sum, each leaves its part for
/// SumTotals.
namespace fusetape::backends::cuda {

/// Where the sums of a block go: part {blocks, sums}, or y itself where there is one block for each.
template <class T>
struct SumsTo {
  double* parts;
  T* y;
  std::int64_t sums;
  double divisor;

  FUSETAPE_HD void store(double sum, std::int64_t block, std::int64_t i) const {
    if (parts != nullptr) {
      parts[block * sums + i] = sum;
    } else {
      y[i] = from_float<T>(static_cast<float>(sum / divisor));
    }
  }
};

/// Of rows {rows, length}: `lanes` threads for each, and for long ones a column of blocks, each with a
/// stretch.
template <class T>
struct RowSums {
  struct Args {
    const T* x;
    SumsTo<T> to;
    std::int64_t length, stretch;  ///< stretch: a multiple of 8
    unsigned lanes;
    bool packed;  ///< all rows start on a boundary of 16 bytes
  };
  static constexpr unsigned threads = 256;
  struct Shared {
    double sum[threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("row_sums<") + type_name<T> + ">"; }
  static constexpr int phases = 3;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned lane = thread.index % args.lanes, slot = thread.index / args.lanes;
    const std::int64_t row = std::int64_t{thread.block_x} * (threads / args.lanes) + slot;
    if (row >= args.to.sums) return;
    constexpr unsigned groups = 16;
    double* const of_row = shared.sum + slot * args.lanes;
    if (phase == 0) {
      shared.sum[thread.index] = add(args, row, lane, thread.block_y);
    } else if (phase == 1) {
      // Nobody else reads the places that a thread of this phase adds up.
      if (lane >= groups) return;
      for (unsigned i = lane + groups; i < args.lanes; i += groups) of_row[lane] += of_row[i];
    } else if (lane == 0) {
      double sum = 0;
      for (unsigned i = 0; i < groups && i < args.lanes; ++i) sum += of_row[i];
      args.to.store(sum, thread.block_y, row);
    }
  }

 private:
  FUSETAPE_HD static double add(const Args& args, std::int64_t row, unsigned lane, std::int64_t block) {
    const T* const x = args.x + row * args.length;
    const std::int64_t begin = block * args.stretch;
    const std::int64_t end = begin + args.stretch < args.length ? begin + args.stretch : args.length;
    double sum = 0;
    if (!args.packed) {
      for (std::int64_t i = begin + lane; i < end; i += args.lanes)
        sum += static_cast<double>(to_float(x[i]));
      return sum;
    }
    for (std::int64_t i = begin + std::int64_t{lane} * 8; i < end; i += std::int64_t{args.lanes} * 8) {
      const Eight v = load_eight(x + i, end - i < 8 ? static_cast<int>(end - i) : 8);
      sum += static_cast<double>(((v.at[0] + v.at[1]) + (v.at[2] + v.at[3])) +
                                 ((v.at[4] + v.at[5]) + (v.at[6] + v.at[7])));
    }
    return sum;
  }
};

/// Of columns {outer, rows, channels}: the blocks of a row of the grid are those of one outer index after the
/// other.
template <class T, int Width>
struct ColumnSums {
  struct Args {
    const T* x;
    SumsTo<T> to;
    ChannelParts parts;
  };
  struct Shared {
    double sum[ChannelParts::threads * Width];
  };
  using Local = Nothing;
  static std::string name() {
    return std::string("column_sums<") + type_name<T> + ", " + std::to_string(Width) + ">";
  }
  static constexpr unsigned threads = ChannelParts::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const std::int64_t outer = thread.block_x / args.parts.blocks, block = thread.block_x % args.parts.blocks;
    phase == 0 ? add(args, shared, thread, outer, block) : join(args, shared, thread, outer, block);
  }

 private:
  FUSETAPE_HD static void add(const Args& args, Shared& shared, const Thread& thread, std::int64_t outer,
                              std::int64_t block) {
    const ChannelParts& parts = args.parts;
    const std::int64_t channel = parts.template channel_of<Width>(thread);
    const T* const x = args.x + outer * parts.rows * parts.channels + channel;
    double sum[Width] = {};
    if (channel < parts.channels) {
      constexpr int few = 16;  // rows that are added in f32
      const std::int64_t end = parts.end_row(block);
      std::int64_t row = parts.first_row(block) + thread.index / parts.lanes;
      while (row < end) {
        float part[Width] = {};
        for (int i = 0; i < few && row < end; ++i, row += parts.slots()) {
          const Eight v = load_eight(x + row * parts.channels, Width);
          for (int c = 0; c < Width; ++c) part[c] += v.at[c];
        }
        for (int c = 0; c < Width; ++c) sum[c] += static_cast<double>(part[c]);
      }
    }
    for (unsigned c = 0; c < Width; ++c) shared.sum[thread.index * Width + c] = sum[c];
  }

  FUSETAPE_HD static void join(const Args& args, const Shared& shared, const Thread& thread,
                               std::int64_t outer, std::int64_t block) {
    const ChannelParts& parts = args.parts;
    parts.template for_channels<Width>(thread, [&](std::int64_t channel, unsigned place) {
      args.to.store(parts.template over_slots<Width>(shared.sum + place), block,
                    outer * parts.channels + channel);
    });
  }
};

/// The parts {blocks, sums} of all blocks.
template <class T>
struct SumTotals {
  struct Args {
    const double* parts;
    std::int64_t blocks;
    SumsTo<T> to;
  };
  struct Shared {
    double sum[ChannelTotals::threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("sum_totals<") + type_name<T> + ">"; }
  static constexpr unsigned threads = ChannelTotals::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned slot = thread.index / ChannelTotals::width, lane = thread.index % ChannelTotals::width;
    const std::int64_t i = std::int64_t{thread.block_x} * ChannelTotals::width + lane;
    if (i >= args.to.sums) return;
    double sum = 0;
    if (phase == 0) {
      for (std::int64_t block = slot; block < args.blocks; block += ChannelTotals::slots) {
        sum += args.parts[block * args.to.sums + i];
      }
      shared.sum[thread.index] = sum;
    } else if (slot == 0) {
      for (unsigned other = 0; other < ChannelTotals::slots; ++other) {
        sum += shared.sum[other * ChannelTotals::width + lane];
      }
      args.to.store(sum, 0, i);
    }
  }
};

/// Over any axes, and of whole numbers and bools, which are counted in i64.
template <class T>
struct LineSums {
  static constexpr bool whole = std::is_integral_v<T>;
  using Sum = std::conditional_t<whole, std::int64_t, double>;
  using Result = std::conditional_t<whole, std::int64_t, T>;
  struct Args {
    const T* x;
    Result* y;
    Lines lines;
    double divisor;  ///< 1 of whole numbers
  };
  struct Shared {
    Sum sum[Lines::threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("line_sums<") + type_name<T> + ">"; }
  static constexpr unsigned threads = Lines::threads;
  static constexpr int phases = 2;

  struct Add {
    FUSETAPE_HD Sum operator()(Sum a, Sum b) const { return a + b; }
  };

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 0) {
      Sum sum = 0;
      args.lines.for_each(thread, [&](std::int64_t, std::int64_t at) { sum += value_of(args.x[at]); });
      shared.sum[thread.index] = sum;
    } else if (args.lines.lane(thread.index) == 0 && args.lines.line(thread) < args.lines.count) {
      const Sum sum = args.lines.joined(shared.sum, thread.index, Add());
      if constexpr (whole) {
        args.y[args.lines.line(thread)] = sum;
      } else {
        args.y[args.lines.line(thread)] = from_float<T>(static_cast<float>(sum / args.divisor));
      }
    }
  }

 private:
  FUSETAPE_HD static Sum value_of(T x) {
    if constexpr (whole) {
      return static_cast<Sum>(x);
    } else {
      return static_cast<Sum>(to_float(x));
    }
  }
};

}  // namespace fusetape::backends::cuda
