#pragma once
#include "backends/cuda/kernels/channel_parts.hpp"
#include "backends/cuda/kernels/elements.hpp"
#include "core/numerics/norm_formulas.hpp"

/// Batch norm, forward: the statistics of a run of rows, of all of them, and y = [relu](norm₁(x₁) [+
/// norm₂(x₂)]
/// [+ z]).
namespace fusetape::backends::cuda {

/// A thread's sum over its rows. Few of them are added to each other, and their sums then: a long chain of
/// equal numbers would lose one digit more each time it becomes ten times as long.
template <class Number, int Width>
struct ChainSum {
  static constexpr int most = 16;
  Number chain[Width] = {}, total[Width] = {};
  int count = 0;

  FUSETAPE_HD void add(const Number* row) {
    for (int i = 0; i < Width; ++i) chain[i] += row[i];
    if (++count == most) end();
  }
  FUSETAPE_HD void end() {
    for (int i = 0; i < Width; ++i) {
      total[i] += chain[i];
      chain[i] = 0;
    }
    count = 0;
  }
};

/// The moments of each channel in the rows of a block. Width channels a thread: 8 where all rows start on a
/// boundary of 16 bytes, else 1.
template <class T, int Width>
struct NormMoments {
  struct Args {
    const T* x;
    double *mean, *square;  ///< {blocks, channels}
    ChannelParts parts;
  };
  struct Shared {
    double mean[ChannelParts::threads * Width], square[ChannelParts::threads * Width];
  };
  using Local = Nothing;
  static std::string name() {
    return std::string("norm_moments<") + type_name<T> + ", " + std::to_string(Width) + ">";
  }
  static constexpr unsigned threads = ChannelParts::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    phase == 0 ? measure(args, shared, thread) : join(args, shared, thread);
  }

 private:
  FUSETAPE_HD static void measure(const Args& args, Shared& shared, const Thread& thread) {
    if (!measure_in<float>(args, shared, thread)) measure_in<double>(args, shared, thread);
  }

  /// About the thread's first row, so that no mean is too large for f32. Whether all is finite: in f32
  /// squares may be too large.
  template <class Number>
  FUSETAPE_HD static bool measure_in(const Args& args, Shared& shared, const Thread& thread) {
    Number shift[Width] = {};
    ChainSum<Number, Width> sum, square;
    std::int64_t count = 0;
    args.parts.template for_rows<Width>(thread, [&](std::int64_t at) {
      const Eight x = load_eight(args.x + at, Width);
      Number away[Width], squares[Width];
      for (int i = 0; i < Width; ++i) {
        if (count == 0) shift[i] = x.at[i];
        away[i] = x.at[i] - shift[i];
        squares[i] = away[i] * away[i];
      }
      sum.add(away);
      square.add(squares);
      ++count;
    });
    sum.end();
    square.end();
    const double n = count > 0 ? static_cast<double>(count) : 1;
    bool finite = true;
    for (int i = 0; i < Width; ++i) {
      const double s = sum.total[i];
      finite = finite && std::isfinite(square.total[i]);
      const unsigned at = thread.index * Width + static_cast<unsigned>(i);
      shared.mean[at] = static_cast<double>(shift[i]) + s / n;
      shared.square[at] = static_cast<double>(square.total[i]) - s * s / n;
    }
    return finite;
  }

  FUSETAPE_HD static void join(const Args& args, const Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    parts.template for_channels<Width>(thread, [&](std::int64_t channel, unsigned place) {
      core::Moments all{};
      for (unsigned slot = 0; slot < parts.slots(); ++slot, place += parts.lanes * Width) {
        const auto count = static_cast<double>(parts.rows_of_slot(thread.block_x, slot));
        if (count > 0) all = core::joined(all, {count, shared.mean[place], shared.square[place]});
      }
      const std::int64_t at = std::int64_t{thread.block_x} * parts.channels + channel;
      args.mean[at] = all.mean;
      args.square[at] = all.square;
    });
  }
};

/// What becomes of a channel's statistics. Null where nobody wants one.
struct NormResults {
  double eps;
  const double* momentum;
  const float *running_mean, *running_var;
  float *batch_mean, *inv_std, *new_mean, *new_var;
  const float* gamma;
  float *mean, *a;  ///< what y is made with, beside β
};

FUSETAPE_HD inline void write_results(const NormResults& to, std::int64_t c, const core::Moments& all) {
  const auto mean = static_cast<float>(all.mean);
  const float inv_std = core::inverse_deviation(all.variance(), to.eps);
  if (to.batch_mean != nullptr) to.batch_mean[c] = mean;
  if (to.inv_std != nullptr) to.inv_std[c] = inv_std;
  if (to.new_mean != nullptr) to.new_mean[c] = core::tracked(to.running_mean[c], all.mean, *to.momentum);
  if (to.new_var != nullptr) {
    to.new_var[c] = core::tracked(to.running_var[c], all.unbiased_variance(), *to.momentum);
  }
  if (to.a == nullptr) return;
  to.mean[c] = mean;
  to.a[c] = core::norm_scale(to.gamma[c], inv_std);
}

/// From the moments of all blocks: mean, 1/√(σ² + ε), the running statistics, and what y is made with.
struct NormStatistics {
  struct Args {
    const double *mean, *square;  ///< {blocks, channels}
    ChannelParts parts;
    NormResults results;
  };
  struct Shared {
    core::Moments moments[ChannelTotals::threads];
  };
  using Local = Nothing;
  static std::string name() { return "norm_statistics"; }
  static constexpr unsigned threads = ChannelTotals::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned slot = thread.index / ChannelTotals::width, lane = thread.index % ChannelTotals::width;
    const std::int64_t channel = static_cast<std::int64_t>(thread.block_x) * ChannelTotals::width + lane;
    if (channel >= args.parts.channels) return;
    core::Moments all{};
    if (phase == 0) {
      for (std::int64_t block = slot; block < args.parts.blocks; block += ChannelTotals::slots) {
        const std::int64_t at = block * args.parts.channels + channel;
        all = core::joined(
            all, {static_cast<double>(args.parts.rows_of_block(block)), args.mean[at], args.square[at]});
      }
      shared.moments[thread.index] = all;
    } else if (slot == 0) {
      for (unsigned i = 0; i < ChannelTotals::slots; ++i) {
        all = core::joined(all, shared.moments[i * ChannelTotals::width + lane]);
      }
      write_results(args.results, channel, all);
    }
  }
};

/// The same from Σx and Σx², as a convolution's epilogue leaves them.
struct NormStatisticsOfSums {
  struct Args {
    const float *sum, *square;
    std::int64_t rows, channels;
    NormResults results;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "norm_statistics_of_sums"; }
  static constexpr unsigned threads = 128;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const std::int64_t c = static_cast<std::int64_t>(thread.block_x) * threads + thread.index;
    if (c >= args.channels) return;
    const auto count = static_cast<double>(args.rows);
    const double mean = args.sum[c] / count;
    write_results(args.results, c, {count, mean, args.square[c] - mean * args.sum[c]});
  }
};

/// The scale of y from a spread that is given: 1/√(σ² + ε) or, with `running`, σ².
struct NormScale {
  struct Args {
    const float *gamma, *spread;
    float* a;
    std::int64_t channels;
    double eps;
    bool running;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "norm_scale"; }
  static constexpr unsigned threads = 128;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const std::int64_t c = static_cast<std::int64_t>(thread.block_x) * threads + thread.index;
    if (c >= args.channels) return;
    const float inv_std = args.running ? core::inverse_deviation(args.spread[c], args.eps) : args.spread[c];
    args.a[c] = core::norm_scale(args.gamma[c], inv_std);
  }
};

/// Eight coefficients from channel c on; past the last channel they begin again.
FUSETAPE_HD inline Eight load_channels(const float* of, std::int64_t c, std::int64_t channels) {
  if (channels % 8 == 0) return load_eight(of + c);
  Eight out{};
  for (float& value : out.at) {
    value = of[c];
    c = c + 1 == channels ? 0 : c + 1;
  }
  return out;
}

/// y and what else somebody reads of it, eight elements at a time. What is added is rounded to T first, as if
/// it had been stored.
template <class T>
struct NormApply {
  struct Args {
    const T* x[2];
    const float *mean[2], *a[2], *beta[2];
    const T* z;  ///< or null; so are the results that nobody wants
    T *normed[2], *sum, *y;
    std::uint8_t* mask;  ///< of y, one bit an element
    std::int64_t count, channels;
    int norms;
    bool relu;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("norm_apply<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_eights<threads>(thread, args.count, [&](std::int64_t at, int count) { eight(args, at, count); });
  }

 private:
  FUSETAPE_HD static Eight normed(const Args& args, int which, std::int64_t at, std::int64_t c, int count) {
    Eight v = load_eight(args.x[which] + at, count);
    const Eight mean = load_channels(args.mean[which], c, args.channels);
    const Eight a = load_channels(args.a[which], c, args.channels);
    const Eight beta = load_channels(args.beta[which], c, args.channels);
    for (int i = 0; i < 8; ++i) v.at[i] = core::normalised(v.at[i], mean.at[i], a.at[i], beta.at[i]);
    return v;
  }

  FUSETAPE_HD static void round(Eight& v) {
    for (float& value : v.at) value = rounded<T>(value);
  }

  FUSETAPE_HD static void eight(const Args& args, std::int64_t at, int count) {
    const std::int64_t c = at % args.channels;
    // Everything is read before anything is written: outputs may share a buffer with any of it.
    Eight v = normed(args, 0, at, c, count);
    const Eight second = args.norms == 2 ? normed(args, 1, at, c, count) : Eight{};
    const Eight z = args.z != nullptr ? load_eight(args.z + at, count) : Eight{};
    if (args.normed[0] != nullptr) store_eight(args.normed[0] + at, v, count);
    if (args.normed[1] != nullptr) store_eight(args.normed[1] + at, second, count);
    if (args.norms == 2) {
      round(v);
      for (int i = 0; i < 8; ++i) v.at[i] += rounded<T>(second.at[i]);
    }
    if (args.z != nullptr) {
      round(v);
      for (int i = 0; i < 8; ++i) v.at[i] += z.at[i];
    }
    if (args.sum != nullptr) store_eight(args.sum + at, v, count);
    round(v);
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i) {
      const bool passes = !(v.at[i] <= 0);
      if (passes && i < count) bits |= 1u << i;
      if (args.relu && !passes) v.at[i] = 0;
    }
    if (args.mask != nullptr) args.mask[at / 8] = static_cast<std::uint8_t>(bits);
    if (args.y != nullptr) store_eight(args.y + at, v, count);
  }
};

}  // namespace fusetape::backends::cuda
