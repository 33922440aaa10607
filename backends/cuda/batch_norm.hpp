#pragma once
#include <memory>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/channel_parts.hpp"
#include "backends/norm_groups.hpp"

/// The two kernels of batch norm: forward and backward, alone and with add and ReLU.
namespace fusetape::backends::cuda {

std::unique_ptr<Kernel> make_norm_forward(const plan::Graph& graph, const plan::Group& group, Device& device);
std::unique_ptr<Kernel> make_norm_backward(const plan::Graph& graph, const plan::Group& group,
                                           Device& device);

/// Rows and channels of a normalised tensor, and how sums over its rows are shared out.
inline int norm_width(const plan::GraphValue& x) { return x.shape.back() % 8 == 0 ? 8 : 1; }
inline ChannelParts norm_parts(const plan::GraphValue& x) {
  const std::int64_t channels = x.shape.back();
  return ChannelParts::of(x.shape.elements() / channels, channels, norm_width(x));
}

}  // namespace fusetape::backends::cuda
