#pragma once
#include "backends/cpu/winograd/winograd.hpp"

/// Backward-weights of a 3×3 convolution by F(3×3, 4×4): dw = Σ over tiles and images of a product of
/// transformed x and transformed dy, 36 positions of {in, out} each, transformed back at the end.
namespace fusetape::backends::cpu::winograd {

/// How the work of a weight gradient is cut.
struct GradientBlocking {
  std::int64_t tiles = 32;  ///< transformed at a time
  /// Threads take tiles and add up sums of their own; or all transform the same tiles and then take channels,
  /// where there are more of them than tiles.
  bool by_channels = false;
  int passes = 1;            ///< by tiles: 1, or 3, each over a third of the positions, whose sums stay in L2
  std::int64_t chunks = 64;  ///< by channels: 16 channels of each operand times so many are a thread's block
};

/// Which blocking is fast for a problem on so many threads.
GradientBlocking default_gradient_blocking(const Problem& problem, int threads);

std::size_t weight_gradient_scratch_bytes(const Problem& problem, const GradientBlocking& blocking,
                                          int threads);

/// dw {out, 3, 3, in} of x {batch, height, width, in} and dy {batch, out height, out width, out}. `scratch`
/// is 64-byte aligned. Equal bits for an equal blocking and number of threads; by channels, for any.
void weight_gradient(const Problem& problem, const Source& x, const Source& dy, void* dw, DType dtype,
                     const GradientBlocking& blocking, int threads, std::byte* scratch);

}  // namespace fusetape::backends::cpu::winograd
