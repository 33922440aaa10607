#pragma once
#include <memory>

#include "backends/cuda/device/cudnn_terms.hpp"
#include "backends/cuda/device/queued_operation.hpp"

namespace fusetape::backends::cuda {

/// Batch norms by cuDNN's graph API, which compiles them when they are built. Not thread-safe.
class NormalizationLibrary {
 public:
  /// `stream`: where most of them are queued.
  NormalizationLibrary(cudaStream_t stream, const DeviceFacts& device);

  /// By cuDNN's first guess. Throws Error with the reason where it refuses.
  std::unique_ptr<QueuedNorm> make(const NormSpec& spec);

 private:
  CudnnHandle handle_;
  int major_, minor_;
};

}  // namespace fusetape::backends::cuda
