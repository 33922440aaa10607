#pragma once
#include <cmath>

#include "backends/cuda/kernels/block_sum.hpp"
#include "backends/cuda/kernels/tensor_list.hpp"

/// √Σ g² over many tensors: a sum for each block, then all of them in their order.
namespace fusetape::backends::cuda {

/// In double: no square of a float overflows there, and each is exact.
template <class T>
struct SquareSums {
  struct Entry {
    const T* data;
    ListedTensor at;
  };
  static constexpr int most = entries_that_fit<Entry>;
  struct Args {
    double* sums;  ///< by block
    int count;
    Entry tensors[most];
  };
  using Shared = BlockSum;
  using Local = Nothing;
  static std::string name() { return std::string("square_sums<") + type_name<T> + ">"; }
  static constexpr unsigned threads = BlockSum::threads;
  static constexpr int phases = 3;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 1) shared.join(thread.index);
    if (phase == 2 && thread.index == 0) args.sums[thread.block_x] = shared.total();
    if (phase != 0) return;
    const ListedRun run = run_of_block(args.tensors, args.count, thread.block_x);
    const T* const data = args.tensors[run.entry].data;
    double sum = 0;
    for_eights<threads>(run, thread.index, [&](std::int64_t at, int count) {
      const Eight g = load_eight(data + at, count);
      for (const float value : g.at) sum += static_cast<double>(value) * static_cast<double>(value);
    });
    shared.of_thread[thread.index] = sum;
  }
};

/// One block.
struct RootOfSum {
  struct Args {
    const double* sums;
    std::int64_t count;
    float* root;
  };
  using Shared = BlockSum;
  using Local = Nothing;
  static std::string name() { return "root_of_sum"; }
  static constexpr unsigned threads = BlockSum::threads;
  static constexpr int phases = 3;

  FUSETAPE_HD static void run(int phase, const Args& args, Shared& shared, Local&, const Thread& thread) {
    if (phase == 1) shared.join(thread.index);
    if (phase == 2 && thread.index == 0) *args.root = static_cast<float>(std::sqrt(shared.total()));
    if (phase != 0) return;
    double sum = 0;
    for (std::int64_t i = thread.index; i < args.count; i += threads) sum += args.sums[i];
    shared.of_thread[thread.index] = sum;
  }
};

}  // namespace fusetape::backends::cuda
