#pragma once
#include "backends/cuda/kernels/norm_forward.hpp"

/// Batch norm, backward, of one or two norms that share g' = (g [+ g2])·mask: their sums, then their dx.
namespace fusetape::backends::cuda {

enum class MaskFrom : std::uint8_t {
  nothing,
  output,  ///< !(y ≤ 0)
  input,   ///< !(y ≤ 0) of the y that forward made of x₁
  bits,    ///< relu_mask's
};

/// g' and what it is made of.
template <class T>
struct MaskedGradient {
  const T *g, *g2;  ///< g2: or null
  MaskFrom mask;
  const T* y;
  const std::uint8_t* bits;
  const float *mean, *scale, *beta;  ///< of the forward pass, with MaskFrom::input
};

/// Of `count` elements from `at` on, of channels from c on, whose x₁ is `x`. `at` is a multiple of 8, or
/// `count` is 1.
template <class T>
FUSETAPE_HD Eight masked_gradient(const MaskedGradient<T>& from, const Eight& x, std::int64_t at,
                                  std::int64_t c, std::int64_t channels, int count) {
  Eight g = load_eight(from.g + at, count);
  if (from.g2 != nullptr) {
    const Eight g2 = load_eight(from.g2 + at, count);
    for (int i = 0; i < 8; ++i) g.at[i] = rounded<T>(g.at[i] + g2.at[i]);
  }
  if (from.mask == MaskFrom::nothing) return g;
  if (from.mask == MaskFrom::bits) {
    const unsigned bits = from.bits[at / 8] >> (at % 8);
    for (int i = 0; i < 8; ++i) {
      if ((bits >> i & 1) == 0) g.at[i] = 0;
    }
    return g;
  }
  Eight y{};
  if (from.mask == MaskFrom::output) {
    y = load_eight(from.y + at, count);
  } else {
    const auto load = [&](const float* of) {
      return count > 1 ? load_channels(of, c, channels) : load_eight(of + c, 1);
    };
    const Eight mean = load(from.mean), a = load(from.scale), beta = load(from.beta);
    for (int i = 0; i < 8; ++i) {
      y.at[i] = rounded<T>(core::normalised(x.at[i], mean.at[i], a.at[i], beta.at[i]));
    }
  }
  for (int i = 0; i < 8; ++i) {
    if (y.at[i] <= 0) g.at[i] = 0;
  }
  return g;
}

/// Σg' and Σg'(x − mean) of each channel in the rows of a block; g' itself where somebody wants it.
template <class T, int Width>
struct NormGradSums {
  struct Args {
    MaskedGradient<T> gradient;
    const T* x[2];
    const float* mean[2];
    T* masked;                  ///< or null
    double *sum_g, *sum_gx[2];  ///< {blocks, channels}
    ChannelParts parts;
    int norms;
  };
  struct Shared {
    float sum_g[ChannelParts::threads * Width], sum_gx[2][ChannelParts::threads * Width];
  };
  using Local = Nothing;
  static std::string name() {
    return std::string("norm_grad_sums<") + type_name<T> + ", " + std::to_string(Width) + ">";
  }
  static constexpr unsigned threads = ChannelParts::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    phase == 0 ? add(args, shared, thread) : join(args, shared, thread);
  }

 private:
  FUSETAPE_HD static void add(const Args& args, Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    const std::int64_t channel = parts.template channel_of<Width>(thread);
    ChainSum<float, Width> sum_g, sum_gx[2];
    Eight mean[2] = {};
    for (int k = 0; k < 2; ++k) {
      if (k < args.norms && channel < parts.channels) mean[k] = load_eight(args.mean[k] + channel, Width);
    }
    parts.template for_rows<Width>(thread, [&](std::int64_t at) {
      Eight x = load_eight(args.x[0] + at, Width);
      const Eight g = masked_gradient(args.gradient, x, at, channel, parts.channels, Width);
      for (int k = 0; k < 2; ++k) {
        if (k == args.norms) break;
        if (k > 0) x = load_eight(args.x[k] + at, Width);
        for (int i = 0; i < Width; ++i) x.at[i] = g.at[i] * (x.at[i] - mean[k].at[i]);
        sum_gx[k].add(x.at);
      }
      sum_g.add(g.at);
      if (args.masked != nullptr) store_eight(args.masked + at, g, Width);
    });
    sum_g.end();
    for (auto& sum : sum_gx) sum.end();
    const unsigned to = thread.index * Width;
    for (unsigned i = 0; i < Width; ++i) {
      shared.sum_g[to + i] = sum_g.total[i];
      for (int k = 0; k < 2; ++k) shared.sum_gx[k][to + i] = sum_gx[k].total[i];
    }
  }

  FUSETAPE_HD static void join(const Args& args, const Shared& shared, const Thread& thread) {
    const ChannelParts& parts = args.parts;
    parts.template for_channels<Width>(thread, [&](std::int64_t channel, unsigned place) {
      const std::int64_t at = std::int64_t{thread.block_x} * parts.channels + channel;
      args.sum_g[at] = parts.template over_slots<Width>(shared.sum_g + place);
      for (int k = 0; k < args.norms; ++k) {
        args.sum_gx[k][at] = parts.template over_slots<Width>(shared.sum_gx[k] + place);
      }
    });
  }
};

/// From the sums of all blocks: dγ, dβ, and the coefficients of dx. Null where nobody wants one.
struct NormGradTotals {
  struct Args {
    const double *sum_g, *sum_gx[2];  ///< {blocks, channels}
    std::int64_t blocks, rows, channels;
    const float *gamma[2], *inv_std[2];
    float *dgamma[2], *dbeta[2];
    float *a[2], *b[2], *c[2];
    int norms;
  };
  struct Shared {
    double sum_g[ChannelTotals::threads], sum_gx[2][ChannelTotals::threads];
  };
  using Local = Nothing;
  static std::string name() { return "norm_grad_totals"; }
  static constexpr unsigned threads = ChannelTotals::threads;
  static constexpr int phases = 2;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned slot = thread.index / ChannelTotals::width, lane = thread.index % ChannelTotals::width;
    const std::int64_t channel = static_cast<std::int64_t>(thread.block_x) * ChannelTotals::width + lane;
    if (channel >= args.channels) return;
    if (phase == 0) {
      shared.sum_g[thread.index] = over_blocks(args, args.sum_g, slot, channel);
      for (int k = 0; k < args.norms; ++k) {
        shared.sum_gx[k][thread.index] = over_blocks(args, args.sum_gx[k], slot, channel);
      }
    } else if (slot == 0) {
      const double sum_g = over_slots(shared.sum_g, lane);
      for (int k = 0; k < args.norms; ++k)
        finish(args, k, channel, sum_g, over_slots(shared.sum_gx[k], lane));
    }
  }

 private:
  FUSETAPE_HD static double over_blocks(const Args& args, const double* of, unsigned slot,
                                        std::int64_t channel) {
    double sum = 0;
    for (std::int64_t block = slot; block < args.blocks; block += ChannelTotals::slots) {
      sum += of[block * args.channels + channel];
    }
    return sum;
  }
  FUSETAPE_HD static double over_slots(const double* of, unsigned lane) {
    double sum = 0;
    for (unsigned i = 0; i < ChannelTotals::slots; ++i) sum += of[i * ChannelTotals::width + lane];
    return sum;
  }
  FUSETAPE_HD static void finish(const Args& args, int k, std::int64_t c, double sum_g, double sum_gx) {
    const float inv_std = args.inv_std[k][c];
    const double sum_gxhat = sum_gx * static_cast<double>(inv_std);
    if (args.dbeta[k] != nullptr) args.dbeta[k][c] = static_cast<float>(sum_g);
    if (args.dgamma[k] != nullptr) args.dgamma[k][c] = static_cast<float>(sum_gxhat);
    if (args.a[k] == nullptr) return;
    const core::NormGradient dx =
        core::norm_gradient(args.gamma[k][c], inv_std, sum_g, sum_gxhat, static_cast<double>(args.rows));
    args.a[k][c] = dx.a;
    args.b[k][c] = dx.b;
    args.c[k][c] = dx.c;
  }
};

/// The coefficients of dx from sums that are given.
struct NormGradCoefficients {
  struct Args {
    const float *gamma, *inv_std, *dgamma, *dbeta;
    float *a, *b, *c;
    std::int64_t rows, channels;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "norm_grad_coefficients"; }
  static constexpr unsigned threads = 128;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    const std::int64_t c = static_cast<std::int64_t>(thread.block_x) * threads + thread.index;
    if (c >= args.channels) return;
    const core::NormGradient dx =
        core::norm_gradient(args.gamma[c], args.inv_std[c], static_cast<double>(args.dbeta[c]),
                            static_cast<double>(args.dgamma[c]), static_cast<double>(args.rows));
    args.a[c] = dx.a;
    args.b[c] = dx.b;
    args.c[c] = dx.c;
  }
};

/// dx = a·g' + (b(x − mean) + c) of each norm, eight elements at a time.
template <class T>
struct NormGradApply {
  struct Args {
    MaskedGradient<T> gradient;
    const T* x[2];
    const float *mean[2], *a[2], *b[2], *c[2];
    T* dx[2];  ///< or null
    std::int64_t count, channels;
    int norms;
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("norm_grad_apply<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_eights<threads>(thread, args.count, [&](std::int64_t at, int count) { eight(args, at, count); });
  }

 private:
  FUSETAPE_HD static void eight(const Args& args, std::int64_t at, int count) {
    const std::int64_t c = at % args.channels;
    // Everything is read before anything is written: outputs may share a buffer with any of it.
    Eight x[2] = {load_eight(args.x[0] + at, count), {}};
    if (args.norms == 2) x[1] = load_eight(args.x[1] + at, count);
    const Eight g = masked_gradient(args.gradient, x[0], at, c, args.channels, count);
    write_dx(args, 0, x[0], g, at, c, count);
    if (args.norms == 2) write_dx(args, 1, x[1], g, at, c, count);
  }

  FUSETAPE_HD static void write_dx(const Args& args, int k, const Eight& x, const Eight& g, std::int64_t at,
                                   std::int64_t c, int count) {
    if (args.dx[k] == nullptr) return;
    const Eight mean = load_channels(args.mean[k], c, args.channels);
    const Eight slope = load_channels(args.a[k], c, args.channels);
    const Eight tilt = load_channels(args.b[k], c, args.channels);
    const Eight offset = load_channels(args.c[k], c, args.channels);
    Eight dx;
    for (int i = 0; i < 8; ++i) {
      dx.at[i] = std::fma(slope.at[i], g.at[i], std::fma(tilt.at[i], x.at[i] - mean.at[i], offset.at[i]));
    }
    store_eight(args.dx[k] + at, dx, count);
  }
};

}  // namespace fusetape::backends::cuda
