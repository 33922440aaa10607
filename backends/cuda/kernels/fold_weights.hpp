#pragma once
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"
#include "core/numerics/norm_formulas.hpp"

namespace fusetape::backends::cuda {

/// The filters and the bias of a convolution with the batch norm behind it folded in
/// (core/numerics/norm_formulas.hpp).
template <class T>
struct FoldWeights {
  struct Args {
    const T *w, *bias;  ///< bias: or null
    const float *gamma, *beta, *mean, *var;
    double eps;
    T *weights, *shift;
    std::int64_t channels, filter;  ///< filter: weights of one channel
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return std::string("fold_weights<") + type_name<T> + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    for_share<threads>(thread, args.channels * args.filter, [&](std::int64_t i) {
      const std::int64_t c = i / args.filter;
      const double a = core::folded_scale(args.gamma[c], args.var[c], args.eps);
      args.weights[i] = narrowed(a * static_cast<double>(to_float(args.w[i])));
      if (i % args.filter != 0) return;
      const float bias = args.bias != nullptr ? to_float(args.bias[c]) : 0;
      args.shift[c] = narrowed(core::folded_shift(a, bias, args.mean[c], args.beta[c]));
    });
  }

 private:
  FUSETAPE_HD static T narrowed(double value) { return from_float<T>(static_cast<float>(value)); }
};

}  // namespace fusetape::backends::cuda
