#pragma once
#include <memory>
#include <string>

#include "backends/backend.hpp"
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends {

/// The CUDA backend on a device, or on its double. `name` is what set_backend takes.
std::unique_ptr<Backend> make_device_backend(std::shared_ptr<cuda::DeviceApi> device, std::string name);

}  // namespace fusetape::backends
