#pragma once
#include <cudnn.h>

#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/queued_operation.hpp"

namespace fusetape::backends::cuda {

struct ConvolutionPlan;

/// Convolutions by cuDNN's graph API. A plan is built, and timed, once for each spec. Not thread-safe.
class ConvolutionLibrary {
 public:
  /// `stream`: where plans are timed, and most convolutions are queued.
  explicit ConvolutionLibrary(cudaStream_t stream);
  ~ConvolutionLibrary();

  /// Throws Error with cuDNN's reason where it refuses.
  std::unique_ptr<QueuedOperation> make(const ConvolutionSpec& spec);

 private:
  struct Known {
    ConvolutionSpec spec;
    std::shared_ptr<const ConvolutionPlan> plan;  ///< null: refused
    std::string refusal;
  };
  const Known& known(const ConvolutionSpec& spec);

  std::unique_ptr<cudnnContext, Destroy<cudnnDestroy>> handle_;
  std::vector<Known> known_;  ///< the oldest first
};

}  // namespace fusetape::backends::cuda
