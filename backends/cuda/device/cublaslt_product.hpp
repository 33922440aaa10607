#pragma once
#include <cublasLt.h>

#include <memory>

#include "backends/cuda/device/errors.hpp"
#include "backends/cuda/device/queued_operation.hpp"

namespace fusetape::backends::cuda {

/// Matrix products by cuBLASLt. Not thread-safe.
class ProductLibrary {
 public:
  ProductLibrary();

  /// Throws Error with the reason where cuBLASLt has no kernel.
  std::unique_ptr<QueuedOperation> make(const ProductSpec& spec);

 private:
  std::unique_ptr<cublasLtContext, Destroy<cublasLtDestroy>> handle_;
};

}  // namespace fusetape::backends::cuda
