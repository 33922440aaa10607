#pragma once
#include <memory>
#include <vector>

#include "backends/cuda/device/cudnn_terms.hpp"
#include "backends/cuda/norm_spec.hpp"

namespace fusetape::backends::cuda {

/// What the spec asks for, in cuDNN's terms. Its tensors are numbered in the order of operands_of(spec).
/// Throws Error with the reason where cuDNN documents that it has no engine for it.
std::unique_ptr<cudnn_frontend::graph::Graph> graph_of(const NormSpec& spec);

/// What an engine may not do: give other bits in another run, or round more than the images' dtype does.
std::vector<cudnn_frontend::NumericalNote_t> unwanted_of_norms();

}  // namespace fusetape::backends::cuda
