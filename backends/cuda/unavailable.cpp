// In place of the device (device/) in a build without CUDA.
#include "backends/backend.hpp"

namespace fusetape::backends {

std::unique_ptr<Backend> make_cuda_backend() {
  throw Error("cuda", "this build has no CUDA: configure it with the preset 'cuda' (make cuda)");
}

}  // namespace fusetape::backends
