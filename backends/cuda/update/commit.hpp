#pragma once
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "backends/cuda/device_api.hpp"
#include "backends/cuda/faults.hpp"

namespace fusetape::backends::cuda::update {

/// The end of a run: copies results to the cells whose old versions they replace, where no kernel noted a
/// fault.
std::unique_ptr<Kernel> make_commit(const plan::Graph& graph, std::span<const plan::Commit> commits,
                                    DeviceApi& device, std::shared_ptr<Faults> faults);

}  // namespace fusetape::backends::cuda::update
