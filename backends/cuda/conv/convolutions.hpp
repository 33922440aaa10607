#pragma once
#include "backends/cuda/candidates.hpp"
#include "backends/cuda/library_kernel.hpp"

/// What the kernels for convolutions share.
namespace fusetape::backends::cuda::conv {

struct LibraryConvolution {
  ConvolutionSpec spec;
  OperationRoles roles;
};

/// As one operation of the library; a batch norm that is folded into it is left out.
LibraryConvolution library_convolution(const plan::Graph& graph, const plan::Convolution& conv);

/// With the statistics of the batch norm behind it. `carries_statistics` asks for a conv2d alone, before
/// groups are made.
Support carries_statistics(const plan::Graph& graph, const plan::GraphNode& conv, Device& device);
std::unique_ptr<Kernel> make_convolution_statistics(const plan::Graph& graph, const plan::Convolution& conv,
                                                    Device& device);
/// Whether it is faster than the convolution and a pass over what it wrote; 0 seconds: not timed.
bool pays_with_statistics(double seconds_with, double seconds_without, double pass_seconds);

/// With the batch norm behind it folded into its weights.
Support supports_folded_convolution(const plan::Graph& graph, const plan::Convolution& conv, Device& device);
std::unique_ptr<Kernel> make_folded_convolution(const plan::Graph& graph, const plan::Convolution& conv,
                                                Device& device);

}  // namespace fusetape::backends::cuda::conv
