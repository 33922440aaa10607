#pragma once
#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"

namespace fusetape::backends::cuda {

/// y[i] = Σ parts[p][i] / divisor. `lanes` threads (a power of two) share a sum, neighbours of one lane take
/// neighbouring sums.
template <class T>
struct ChainTotals {
  static constexpr unsigned threads = 256;
  struct Args {
    const float* parts;
    T* y;
    std::int64_t count;  ///< parts of each sum
    std::int64_t sums;
    unsigned lanes;
    double divisor;
  };
  struct Shared {
    double sum[threads];
  };
  using Local = Nothing;
  static std::string name() { return std::string("chain_totals<") + type_name<T> + ">"; }
  static constexpr int halvings = 8;
  static constexpr int phases = 1 + halvings + 1;

  static unsigned lanes_for(std::int64_t parts) {
    constexpr std::int64_t each = 8;
    unsigned lanes = 1;
    while (lanes < threads && lanes * each < parts) lanes *= 2;
    return lanes;
  }

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    const unsigned sums = threads / args.lanes;  // of a block
    const unsigned i = thread.index, lane = i / sums;
    const std::int64_t at = std::int64_t{thread.block_x} * sums + i % sums;
    if (at >= args.sums) return;
    if (phase == 0) {
      shared.sum[i] = 0;
      for (std::int64_t part = lane; part < args.count; part += args.lanes)
        shared.sum[i] += static_cast<double>(args.parts[part * args.sums + at]);
    } else if (phase <= halvings) {
      const unsigned half = args.lanes >> phase;
      if (lane < half) shared.sum[i] += shared.sum[i + half * sums];
    } else if (lane == 0) {
      args.y[at] = from_float<T>(static_cast<float>(shared.sum[i] / args.divisor));
    }
  }
};

}  // namespace fusetape::backends::cuda
