#pragma once
#include "backends/cuda/kernels/fault.hpp"
#include "backends/cuda/kernels/tensor_list.hpp"

namespace fusetape::backends::cuda {

/// Copies what a run computed for cells to where the cells are, unless the run found fault with its data.
template <class Word>
struct Commit {
  struct Entry {
    const Word* from;
    Word* to;
    ListedTensor at;
  };
  static constexpr int most = entries_that_fit<Entry>;
  struct Args {
    const Fault* fault;
    int count;
    Entry tensors[most];
  };
  using Shared = Nothing;
  using Local = Nothing;
  static std::string name() { return "commit<" + std::to_string(sizeof(Word)) + ">"; }
  static constexpr unsigned threads = 256;
  static constexpr int phases = 1;

  FUSETAPE_HD static void run(int, const Args& args, Shared&, Local&, const Thread& thread) {
    if (args.fault->site != 0) return;
    const ListedRun run = run_of_block(args.tensors, args.count, thread.block_x);
    const Entry& tensor = args.tensors[run.entry];
    for (std::int64_t at = run.first + thread.index; at < run.end; at += threads)
      tensor.to[at] = tensor.from[at];
  }
};

}  // namespace fusetape::backends::cuda
