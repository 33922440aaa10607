#pragma once
#include <memory>

#include "backends/cuda/device/cudnn_terms.hpp"
#include "backends/cuda/device/queued_operation.hpp"

namespace fusetape::backends::cuda {

/// Convolutions by cuDNN's graph API. Not thread-safe.
class ConvolutionLibrary {
 public:
  /// `stream`: where plans are timed, and most convolutions are queued.
  explicit ConvolutionLibrary(cudaStream_t stream);

  /// Builds plans, and times them. Throws Error with cuDNN's reason where it refuses.
  std::unique_ptr<QueuedOperation> make(const ConvolutionSpec& spec);

 private:
  CudnnHandle handle_;
};

}  // namespace fusetape::backends::cuda
