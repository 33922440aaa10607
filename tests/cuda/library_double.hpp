#pragma once
#include <memory>

#include "backends/cuda/device_api.hpp"

namespace fusetape::tests {

/// What cuDNN and cuBLASLt would compute, in plain loops with sums of doubles, rounded once.
class LibraryDouble : public backends::cuda::LibraryOperation {
 public:
  std::size_t workspace_bytes() const override { return 1023; }
  virtual void run(const backends::cuda::OperationArgs& args) = 0;
  /// Of what queued work may need: whether it is still there.
  std::weak_ptr<const void> life() const { return life_; }

 private:
  std::shared_ptr<int> life_ = std::make_shared<int>(0);
};

/// Throw Error where the real library would refuse the spec.
std::unique_ptr<LibraryDouble> make_convolution_double(const backends::cuda::ConvolutionSpec& spec);
std::unique_ptr<LibraryDouble> make_product_double(const backends::cuda::ProductSpec& spec);

}  // namespace fusetape::tests
