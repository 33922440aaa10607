#include "backends/cuda/cuda_backend.hpp"
#include "backends/cuda/device/cuda_device.hpp"

namespace fusetape::backends {

std::unique_ptr<Backend> make_cuda_backend() {
  return make_device_backend(std::make_shared<cuda::CudaDevice>(), "cuda");
}

}  // namespace fusetape::backends
