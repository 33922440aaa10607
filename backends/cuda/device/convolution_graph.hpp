#pragma once
#include <cudnn_frontend.h>

#include <memory>
#include <string>

#include "backends/cuda/convolution_spec.hpp"

namespace fusetape::backends::cuda {

/// What the spec asks for, in cuDNN's terms. Its tensors are numbered in the order of OperationArgs: a, b, bias
/// and z where there are, the result. Throws Error where cuDNN has no words for it.
std::unique_ptr<cudnn_frontend::graph::Graph> graph_of(const ConvolutionSpec& spec);

/// Throws Error("cudnn", …) with cuDNN's words.
void check(const cudnn_frontend::error_t& status);

}  // namespace fusetape::backends::cuda
