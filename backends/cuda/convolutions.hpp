#pragma once
#include <optional>

#include "backends/cuda/candidates.hpp"
#include "backends/cuda/library_kernel.hpp"

/// What the kernels for convolutions share.
namespace fusetape::backends::cuda {

struct LibraryConvolution {
  ConvolutionSpec spec;
  OperationRoles roles;
};

/// The group as one operation of the library, without a batch norm behind the convolution; nullopt where it
/// is no convolution, or several.
std::optional<LibraryConvolution> convolution_of(const plan::Graph& graph, const plan::Group& group);

/// With the batch norm behind it folded into its weights.
Support supports_folded_convolution(const plan::Graph& graph, const plan::Group& group, Device& device);
std::unique_ptr<Kernel> make_folded_convolution(const plan::Graph& graph, const plan::Group& group,
                                                Device& device);

}  // namespace fusetape::backends::cuda
