#pragma once
#include <cudnn_frontend.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "backends/cuda/device/errors.hpp"
#include "fusetape/dtype.hpp"

/// What all of our graphs say to cuDNN in the same words.
namespace fusetape::backends::cuda {

/// Throws Error("cudnn", …) with cuDNN's words, or OutOfMemory.
void check(const cudnn_frontend::error_t& status);
void check(cudnnStatus_t status, const char* doing);
/// The same of what the frontend throws.
[[noreturn]] void fail(const cudnn_frontend::cudnnException& thrown);

cudnn_frontend::DataType_t type_of(DType dtype);

/// Four extents in cuDNN's order, which has the channels second; in memory they are last.
struct Extents {
  std::int64_t n, c, h, w;
};

/// A packed tensor; returns what it was given.
cudnn_frontend::graph::Tensor_attributes& describe(cudnn_frontend::graph::Tensor_attributes& tensor,
                                                   std::int64_t uid, DType dtype, Extents extents);

/// Builds plans for the first `most` engines that can run the graph and have none of these notes, in the
/// order of cuDNN's guesses: their indices. Without a handle: for the device properties that the graph has.
/// Throws Error with cuDNN's reason where there are none.
std::vector<std::int64_t> build_plans(cudnn_frontend::graph::Graph& graph,
                                      const std::vector<cudnn_frontend::NumericalNote_t>& unwanted,
                                      cudnnHandle_t handle, int most);

using CudnnHandle = std::unique_ptr<cudnnContext, Destroy<cudnnDestroy>>;
CudnnHandle make_cudnn_handle(cudaStream_t stream);
cudaStream_t stream_of(cudnnHandle_t handle);

}  // namespace fusetape::backends::cuda
