#include "backends/cuda/device/device_facts.hpp"

#include <cuda_runtime_api.h>

#include <string>

#include "backends/cuda/device/errors.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

/// 13010: "13.1".
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

void require_device() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return;
  static_cast<void>(cudaGetLastError());
  int driver = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  throw Error("cuda",
              "no CUDA device can be used: " + words_of(status == cudaSuccess ? cudaErrorNoDevice : status) +
                  "; this build wants CUDA " + version_text(CUDART_VERSION) + ", the driver " +
                  (driver == 0 ? "is not installed" : "offers " + version_text(driver)));
}

double attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "asking for the device's properties");
  return value;
}

}  // namespace

CycleFlops flops_per_cycle(int major, int minor) {
  // Two for each multiplication with its addition: 64 or 128 lanes; dense products on tensor cores.
  if (major == 8) return minor == 0 ? CycleFlops{128, 2048} : CycleFlops{256, 1024};
  if (major == 9) return {256, 4096};
  if (major == 10) return {256, 8192};
  return major < 8 ? CycleFlops{128, 1024} : CycleFlops{256, 1024};
}

DeviceFacts facts_of_device() {
  require_device();
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for the device's properties");

  const double cycles = 1e3 * attribute(cudaDevAttrClockRate, device);           // from kHz
  const double transfers = 2e3 * attribute(cudaDevAttrMemoryClockRate, device);  // two a cycle
  const double bus_bytes = attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8;
  const CycleFlops flops = flops_per_cycle(properties.major, properties.minor);
  const double all_cycles = cycles * properties.multiProcessorCount;
  return {.name = properties.name,
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .memory_bytes = properties.totalGlobalMem,
          .flops = flops.single * all_cycles,
          .half_flops = flops.half * all_cycles,
          // Some devices keep their memory's clock to themselves.
          .bytes_per_second = transfers > 0 ? transfers * bus_bytes : 1e12};
}

}  // namespace fusetape::backends::cuda
