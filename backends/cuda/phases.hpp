#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/numerics/host_device.hpp"

/// Kernels as phases: what every thread of a block does between two barriers. A device runs them with
/// __syncthreads() in between, a host one thread after the other, in any order; so one source is checked on
/// machines without a device.
///
///     struct Example {
///       struct Args { const float* x; float* y; std::int64_t count; };  // pointers and sizes
///       struct Shared { float partial[threads]; };                      // of a block
///       struct Local { float sum; };                                    // of a thread, from phase to phase
///       static std::string name() { return "example"; }                 // of templates: with what they are
///       for static constexpr unsigned threads = 256;                        // of a block, a power of two
///       static constexpr int phases = 2;
///       FUSETAPE_HD static void run(int phase, const Args&, Shared&, Local&, const Thread&);
///     };
///
/// No phase reads what another thread of the same phase writes. Shared and Local start undefined.
namespace fusetape::backends::cuda {

/// Blocks of a launch.
struct Grid {
  std::int64_t x = 1, y = 1;
};

/// Which of them.
struct Thread {
  unsigned index;               ///< in the block
  unsigned block_x, block_y;    ///< of the block
  unsigned blocks_x, blocks_y;  ///< of the grid
};

/// Calls f(i) for a thread's share of 0 … count - 1, in strides of the whole grid.
template <unsigned Threads, class F>
FUSETAPE_HD void for_share(const Thread& thread, std::int64_t count, F f) {
  const std::int64_t step = std::int64_t{thread.blocks_x} * Threads;
  for (std::int64_t i = std::int64_t{thread.block_x} * Threads + thread.index; i < count; i += step) f(i);
}

struct Nothing {};  ///< for kernels without Shared or Local

/// In which order a host runs the threads of a block: t = (first + i·step) mod threads, step odd.
struct HostOrder {
  unsigned first = 0, step = 1;
};

/// Runs one block on the host; `index` of `block` is not read.
using HostBlock = std::function<void(const void* args, Thread block, HostOrder order)>;

/// What a device, or its double, must know of a kernel to launch it.
struct KernelEntry {
  std::string name;
  unsigned threads = 0;  ///< of a block
  std::size_t shared_bytes = 0, args_bytes = 0;
  HostBlock run_block;
  const void* code = nullptr;  ///< of a kernel made at run time, on its device; the others are found by name
};

/// Undefined contents, made visible: every float of them is a NaN.
template <class T>
void fill_with_garbage(T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memset(static_cast<void*>(&object), 0xff, sizeof(T));
}

template <class K>
void run_block_on_host(const void* args, Thread block, HostOrder order) {
  const auto& arguments = *static_cast<const typename K::Args*>(args);
  const auto shared = std::make_unique<typename K::Shared>();
  std::vector<typename K::Local> locals(K::threads);
  fill_with_garbage(*shared);
  for (auto& local : locals) fill_with_garbage(local);
  for (int phase = 0; phase < K::phases; ++phase) {
    for (unsigned i = 0; i < K::threads; ++i) {
      block.index = (order.first + i * order.step) % K::threads;
      K::run(phase, arguments, *shared, locals[block.index], block);
    }
  }
}

template <class K>
const KernelEntry& entry_of() {
  static_assert((K::threads & (K::threads - 1)) == 0 && K::threads <= 1024);
  static_assert(std::is_trivially_copyable_v<typename K::Args>);
  static const KernelEntry entry{.name = K::name(),
                                 .threads = K::threads,
                                 .shared_bytes = sizeof(typename K::Shared),
                                 .args_bytes = sizeof(typename K::Args),
                                 .run_block = run_block_on_host<K>};
  return entry;
}

}  // namespace fusetape::backends::cuda
