#pragma once
#include <cstdint>

#include "backends/cuda/kernels/elements.hpp"
#include "backends/cuda/phases.hpp"

/// Many tensors in one launch: their pointers are among the arguments, and they lie behind each other in the
/// grid, each from a block of its own on.
namespace fusetape::backends::cuda {

/// What the entries of a list have beside their pointers.
struct ListedTensor {
  std::uint32_t count, first_block;
};

inline constexpr std::int64_t elements_per_block = 4096;
/// A larger tensor has several entries.
inline constexpr std::int64_t elements_per_entry = std::int64_t{1} << 30;

/// How many entries fit into the arguments of a launch, beside a few others.
template <class Entry>
inline constexpr int entries_that_fit = (4096 - 128) / static_cast<int>(sizeof(Entry));

/// A run of elements of one entry.
struct ListedRun {
  int entry;
  std::int64_t first, end;
};

template <class Entry>
FUSETAPE_HD ListedRun run_of_block(const Entry* entries, int count, std::int64_t block) {
  int entry = 0;
  while (entry + 1 < count && entries[entry + 1].at.first_block <= block) ++entry;
  const ListedTensor& at = entries[entry].at;
  const std::int64_t first = (block - at.first_block) * elements_per_block;
  const std::int64_t end = first + elements_per_block;
  return {entry, first, end < at.count ? end : at.count};
}

/// Calls f(first, count) for the thread's stretches of up to eight elements.
template <unsigned Threads, class F>
FUSETAPE_HD void for_eights(const ListedRun& run, unsigned index, F f) {
  for (std::int64_t at = run.first + std::int64_t{index} * 8; at < run.end; at += std::int64_t{Threads} * 8) {
    const std::int64_t left = run.end - at;
    f(at, left < 8 ? static_cast<int>(left) : 8);
  }
}

}  // namespace fusetape::backends::cuda
