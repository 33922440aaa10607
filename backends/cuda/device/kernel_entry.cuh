#pragma once
#include <vector>

#include "backends/cuda/device/kernel_table.hpp"
#include "backends/cuda/kernels/all.hpp"

/// Kernels written as phases, as a device runs them.
namespace fusetape::backends::cuda {

/// Static shared memory ends there.
inline constexpr std::size_t most_shared_bytes = 48 << 10;

/// The loop is unrolled: each phase is inlined on its own, and Local stays in registers.
template <class K>
__global__ void __launch_bounds__(K::threads) entry(const __grid_constant__ typename K::Args args) {
  using Shared = typename K::Shared;
  static_assert(sizeof(Shared) <= most_shared_bytes);
  __shared__ alignas(Shared) unsigned char storage[sizeof(Shared)];
  typename K::Local local;
  const Thread thread{.index = threadIdx.x,
                      .block_x = blockIdx.x,
                      .block_y = blockIdx.y,
                      .blocks_x = gridDim.x,
                      .blocks_y = gridDim.y};
#pragma unroll
  for (int phase = 0; phase < K::phases; ++phase) {
    if (phase > 0) __syncthreads();
    K::run(phase, args, *reinterpret_cast<Shared*>(storage), local, thread);
  }
}

template <class... K>
std::vector<DeviceFunction> functions_of(KernelList<K...>) {
  return {DeviceFunction{&entry_of<K>(), reinterpret_cast<const void*>(&entry<K>)}...};
}

}  // namespace fusetape::backends::cuda
