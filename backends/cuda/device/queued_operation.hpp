#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// A library's operation on the device itself, queued with such pointers.
class QueuedOperation : public LibraryOperation {
 public:
  std::size_t workspace_bytes() const final { return workspace_ == 0 ? 0 : workspace_ + alignment - 1; }
  virtual void queue(cudaStream_t stream, const OperationArgs& args) = 0;

 protected:
  void need_workspace(std::size_t bytes) { workspace_ = bytes; }
  std::size_t needed_workspace() const { return workspace_; }
  /// Libraries want more alignment than the plan's scratch has.
  static void* aligned(void* workspace) {
    const auto address = reinterpret_cast<std::uintptr_t>(workspace);
    return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
  }

 private:
  static constexpr std::size_t alignment = 256;
  std::size_t workspace_ = 0;
};

}  // namespace fusetape::backends::cuda
