#pragma once
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// A plan's kernels as one CUDA graph: captured when the plan runs for the second time with the same buffers
/// (a training loop's come back to the same places after a step or two), replayed from then on. What changes
/// from step to step (batches, learning rates, seeds) is uploaded to those buffers before. A few graphs are
/// kept, for loops whose buffers take turns.
std::unique_ptr<Replay> make_graph_replay(std::span<Kernel* const> kernels, std::size_t values,
                                          DeviceApi& device);

}  // namespace fusetape::backends::cuda
