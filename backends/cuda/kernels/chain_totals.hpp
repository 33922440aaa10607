#pragma once
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"

namespace fusetape::backends::cuda {

/// y[i] = Σ parts[p][i] / divisor, a block for each sum.
template <class T>
struct ChainTotals {
  static constexpr unsigned threads = 256;
  struct Args {
    const float* parts;
    T* y;
    std::int64_t count;  ///< parts of each sum
    std::int64_t sums;
    double divisor;
  };
  struct Shared {
    double sum[threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("chain_totals<") + type_name<T> + ">"; }
  static constexpr int halvings = 8;
  static constexpr int phases = 1 + halvings + 1;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned i = thread.index;
    if (phase == 0) {
      shared.sum[i] = 0;
      for (std::int64_t part = i; part < args.count; part += threads)
        shared.sum[i] += static_cast<double>(args.parts[part * args.sums + thread.block_x]);
    } else if (phase <= halvings) {
      const unsigned half = threads >> phase;
      if (i < half) shared.sum[i] += shared.sum[i + half];
    } else if (i == 0) {
      args.y[thread.block_x] = from_float<T>(static_cast<float>(shared.sum[0] / args.divisor));
    }
  }
};

}  // namespace fusetape::backends::cuda
