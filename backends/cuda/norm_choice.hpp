#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/library_norm.hpp"

/// Which kernel computes a batch norm on a device.
namespace fusetape::backends::cuda {

/// What races have shown, each run once. Bounded: beyond `most`, those whose operation no kernel holds are
/// let go.
class NormChoices {
 public:
  struct Choice {
    std::shared_ptr<LibraryOperation> operation;  ///< null: our kernel
    std::string why;
  };
  static constexpr std::size_t most = 1024;

  explicit NormChoices(DeviceApi& device) : device_(device) {}
  Choice find(const LibraryNorm& norm, const std::function<Choice()>& decide);

 private:
  struct Known {
    NormSpec spec;
    bool mask;  ///< forward's, which has its time, too
    Choice choice;
  };
  DeviceApi& device_;
  std::mutex mutex_;
  std::vector<Known> known_;
};

/// `ours`, or the library's kernel where a race has shown that it is faster and computes the same;
/// Kernel::why tells what was found. To be called where kernels are made: it builds, allocates and waits for
/// the device.
std::unique_ptr<Kernel> faster_norm(const plan::Graph& graph, const LibraryNorm& norm,
                                    std::unique_ptr<Kernel> ours, Device& device);

}  // namespace fusetape::backends::cuda
