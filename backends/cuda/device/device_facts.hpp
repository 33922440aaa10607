#pragma once
#include "backends/cuda/device_api.hpp"

namespace fusetape::backends::cuda {

/// Of the current device. Throws where there is none, or the driver is too old for this build.
DeviceFacts facts_of_device();

/// Floating-point operations of a multiprocessor in a cycle, of f32 and, on tensor cores, of bf16 and f16.
struct CycleFlops {
  double single = 0, half = 0;
};
CycleFlops flops_per_cycle(int major, int minor);

}  // namespace fusetape::backends::cuda
