#include "backends/cuda/device/kernel_entry.cuh"

namespace fusetape::backends::cuda {

std::vector<DeviceFunction> other_kernels() { return functions_of(OtherKernels{}); }

}  // namespace fusetape::backends::cuda
