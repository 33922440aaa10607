#include "backends/cuda/device/kernel_entry.cuh"

namespace fusetape::backends::cuda {

std::vector<DeviceFunction> f16_kernels() { return functions_of(ElementKernels<F16>{}); }

}  // namespace fusetape::backends::cuda
