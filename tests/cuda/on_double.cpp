#include "on_double.hpp"

#include "backends/cuda/cuda_backend.hpp"
#include "core/backends.hpp"
#include "core/tape/tape.hpp"

namespace fusetape::tests {

HostDouble& host_double() {
  static HostDouble& device = *[] {
    auto made = std::make_shared<HostDouble>();
    core::add_backend(backends::make_device_backend(made, "cuda double"));
    return made.get();
  }();
  return device;
}

}  // namespace fusetape::tests
