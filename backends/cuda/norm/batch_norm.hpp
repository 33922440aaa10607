#pragma once
#include <memory>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/device_kernel.hpp"
#include "backends/cuda/kernels/norm_forward.hpp"
#include "backends/norm_groups.hpp"
#include "core/op/op_attrs.hpp"

/// The two kernels of batch norm: forward and backward, alone and with add and ReLU.
namespace fusetape::backends::cuda::norm {

std::unique_ptr<Kernel> make_norm_forward(const plan::Graph& graph, const plan::Group& group, Device& device);
std::unique_ptr<Kernel> make_norm_backward(const plan::Graph& graph, const plan::Group& group,
                                           Device& device);

/// Where a norm's statistics go and what is tracked, by the roles that somebody wants; `access` gets what
/// that reads and writes. What y is made with is the caller's to add.
NormResults norm_results(const plan::NormRoles& norm, double eps, std::int64_t channels,
                         const KernelArgs& args, Access& access);

/// New running statistics may lie where the old ones are.
void add_tracked_in_place(const plan::NormRoles& norm, std::vector<std::pair<int, int>>& pairs);

/// Rows and channels of a normalised tensor, and how sums over its rows are shared out.
inline int norm_width(const plan::GraphValue& x) { return x.shape.back() % 8 == 0 ? 8 : 1; }
inline ChannelParts norm_parts(const plan::GraphValue& x) {
  const std::int64_t channels = x.shape.back();
  return ChannelParts::of(x.shape.elements() / channels, channels, norm_width(x));
}

}  // namespace fusetape::backends::cuda::norm
