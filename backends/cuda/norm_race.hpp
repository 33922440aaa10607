#pragma once
#include <string>

#include "backends/cuda/library_norm.hpp"

/// Our kernel for a batch norm against the library's, on the same random data. How a library rounds, which
/// variance it tracks and what it makes of a NaN is written nowhere: it is looked at before it is trusted.
namespace fusetape::backends::cuda {

struct NormRace {
  std::string difference;        ///< of the library's results from ours: "its y differs by 0.3"; empty: none
  double ours = 0, library = 0;  ///< seconds of a run; not measured where the results differ
};

struct NormVerdict {
  bool library = false;
  std::string why;  ///< "0.83 of our time"
};

/// The library's, where it computes the same and is clearly faster.
NormVerdict judge(const NormRace& race);

/// Runs both, with nothing else on the device. Throws Error where one of them cannot be run.
NormRace run_race(const plan::Graph& graph, const LibraryNorm& norm, Kernel& ours, Kernel& library,
                  DeviceApi& device);

}  // namespace fusetape::backends::cuda
