#pragma once
#include <cstdint>

#include "core/numerics/host_device.hpp"

namespace fusetape::backends::cuda {

/// What a kernel found wrong in its data. It cannot throw: the first fault stays in device memory until the
/// host waits and looks (faults.hpp).
struct Fault {
  unsigned site;  ///< of the kernel that found it; 0: nothing is wrong
  std::int64_t row, value;
};

FUSETAPE_HD inline void note_fault(Fault* fault, unsigned site, std::int64_t row, std::int64_t value) {
#ifdef __CUDA_ARCH__
  if (atomicCAS(&fault->site, 0u, site) != 0) return;
#else
  if (fault->site != 0) return;
  fault->site = site;
#endif
  fault->row = row;
  fault->value = value;
}

}  // namespace fusetape::backends::cuda
