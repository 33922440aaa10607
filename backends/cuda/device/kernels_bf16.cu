#include "backends/cuda/device/kernel_entry.cuh"

namespace fusetape::backends::cuda {

std::vector<DeviceFunction> bf16_kernels() { return functions_of(ElementKernels<Bf16>{}); }

}  // namespace fusetape::backends::cuda
