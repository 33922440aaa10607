#include "described_device.hpp"

#include <cuda_runtime_api.h>

#include <string>

namespace fusetape::tests {

std::shared_ptr<const cudnn_frontend::DeviceProperties> hopper() {
  const std::string text = R"({
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0,
    "totalGlobalMem": 85000000000, "multiProcessorCount": 132, "warpSize": 32, "regsPerBlock": 65536,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
    "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800})";
  auto properties = std::make_shared<cudnn_frontend::DeviceProperties>();
  const auto status = properties->deserialize({text.begin(), text.end()});
  if (status.is_bad()) return nullptr;
  return properties;
}

bool there_is_a_driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess && version > 0;
}

}  // namespace fusetape::tests
