#include "backends/cuda/device/kernel_entry.cuh"

namespace fusetape::backends::cuda {

std::vector<DeviceFunction> f32_kernels() { return functions_of(ElementKernels<float>{}); }

}  // namespace fusetape::backends::cuda
