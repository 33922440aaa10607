#pragma once
#include <string_view>
#include <vector>

#include "backends/cuda/phases.hpp"

namespace fusetape::backends::cuda {

/// A kernel and its code on the device, as cudaLaunchKernel takes it.
struct DeviceFunction {
  const KernelEntry* entry = nullptr;
  const void* function = nullptr;
};

/// Of all of AllKernels (kernels/all.hpp).
const std::vector<DeviceFunction>& device_functions();

/// Null where no kernel has that name.
const void* device_function(std::string_view name);

}  // namespace fusetape::backends::cuda
