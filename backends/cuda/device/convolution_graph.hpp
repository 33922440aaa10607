#pragma once
#include <memory>
#include <vector>

#include "backends/cuda/convolution_spec.hpp"
#include "backends/cuda/device/cudnn_terms.hpp"

namespace fusetape::backends::cuda {

/// What the spec asks for, in cuDNN's terms. Its tensors are numbered in the order of OperationArgs: a, b,
/// bias and z where there are, the result, its channels' sums and squares where they are wanted. Throws Error
/// where cuDNN has no words for it.
std::unique_ptr<cudnn_frontend::graph::Graph> graph_of(const ConvolutionSpec& spec);

/// Builds plans for the first `most` engines that can run the graph, in the order of cuDNN's guesses: their
/// indices. Without a handle: for the device properties that the graph has. Throws Error with cuDNN's reason
/// where there are none.
std::vector<std::int64_t> build_candidates(cudnn_frontend::graph::Graph& graph, const ConvolutionSpec& spec,
                                           cudnnHandle_t handle, int most);

}  // namespace fusetape::backends::cuda
