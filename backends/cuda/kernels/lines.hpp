#pragma once
#include <cstdint>

#include "backends/cuda/phases.hpp"

/// Lines of elements along some axes of a tensor, shared out to the threads of a block: for reductions,
/// argmax and softmax.
namespace fusetape::backends::cuda {

struct Quotient {
  std::int64_t whole, rest;
};
/// Of numbers that are not negative. A device divides 32 bits several times faster than 64.
FUSETAPE_HD inline Quotient divided(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) != 0) return {a / b, a % b};
  const auto small_a = static_cast<std::uint32_t>(a), small_b = static_cast<std::uint32_t>(b);
  return {small_a / small_b, small_a % small_b};
}

/// Offsets into a tensor for the elements of some of its axes, counted row by row.
struct Axes {
  int rank = 0;
  std::int64_t extent[8] = {}, stride[8] = {};

  /// Inside of those before it, which it joins where they are one stretch of memory.
  void push(std::int64_t more, std::int64_t step) {
    if (more == 1) return;
    if (rank > 0 && stride[rank - 1] == more * step) {
      extent[rank - 1] *= more;
      stride[rank - 1] = step;
    } else {
      extent[rank] = more;
      stride[rank++] = step;
    }
  }

  FUSETAPE_HD std::int64_t offset(std::int64_t i) const {
    std::int64_t offset = 0;
    for (int axis = rank - 1; axis > 0; --axis) {
      const Quotient index = divided(i, extent[axis]);
      offset += index.rest * stride[axis];
      i = index.whole;
    }
    return rank > 0 ? offset + i * stride[0] : 0;
  }
};

struct Lines {
  static constexpr unsigned threads = 256;

  Axes across, along;  ///< from line to line; in a line
  std::int64_t count = 1, length = 1;
  unsigned lanes = 1;         ///< threads that share a line, a power of two
  bool side_by_side = false;  ///< neighbouring threads take neighbouring lines, not neighbours in a line

  /// Shares the lines out to enough threads.
  void choose_lanes() {
    side_by_side = across.rank > 0 && across.stride[across.rank - 1] == 1;
    constexpr std::int64_t enough_threads = 1 << 16, least_elements = 4;
    constexpr unsigned most = 64;  // each of them joins what all have found
    while (lanes < most && lanes * least_elements < length) {
      if (side_by_side && count * lanes >= enough_threads) break;
      lanes *= 2;
    }
  }
  std::int64_t blocks() const { return (count + per_block() - 1) / per_block(); }

  FUSETAPE_HD unsigned per_block() const { return threads / lanes; }
  FUSETAPE_HD unsigned lane(unsigned index) const {
    return side_by_side ? index / per_block() : index % lanes;
  }
  FUSETAPE_HD unsigned slot(unsigned index) const {
    return side_by_side ? index % per_block() : index / lanes;
  }
  /// The thread's line; past the last one: none.
  FUSETAPE_HD std::int64_t line(const Thread& thread) const {
    return std::int64_t{thread.block_x} * per_block() + slot(thread.index);
  }

  /// Calls f(i, offset) for the thread's elements of a line.
  template <class F>
  FUSETAPE_HD void for_each(const Thread& thread, F f) const {
    const std::int64_t at = line(thread);
    if (at >= count) return;
    const std::int64_t start = across.offset(at);
    for (std::int64_t i = lane(thread.index); i < length; i += lanes) f(i, start + along.offset(i));
  }

  /// Joins what the threads of this thread's line left, in the order of their lanes: the same for all of
  /// them.
  template <class T, class Join>
  FUSETAPE_HD T joined(const T* of_thread, unsigned index, Join join) const {
    const unsigned first = side_by_side ? slot(index) : slot(index) * lanes;
    const unsigned step = side_by_side ? per_block() : 1;
    T all = of_thread[first];
    for (unsigned i = 1; i < lanes; ++i) all = join(all, of_thread[first + i * step]);
    return all;
  }
};

struct Larger {
  FUSETAPE_HD float operator()(float a, float b) const { return b > a ? b : a; }
};
struct Added {
  FUSETAPE_HD double operator()(double a, double b) const { return a + b; }
};

}  // namespace fusetape::backends::cuda
