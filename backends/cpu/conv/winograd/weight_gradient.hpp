#pragma once
#include "backends/cpu/conv/winograd/winograd.hpp"

/// Backward-weights of a 3×3 convolution by F(3×3, 4×4): dw = Σ over tiles and images of a product of
/// transformed x and transformed dy, 36 positions of {in, out} each, transformed back at the end.
namespace fusetape::backends::cpu::conv::winograd {

/// How the work of a weight gradient is cut.
struct GradientBlocking {
  std::int64_t tiles = 32;  ///< transformed at a time
  /// Each thread takes tiles, and adds to sums of its own; or all transform the same tiles and then each
  /// takes channels: fewer sums in all, and nothing to add up at the end.
  bool by_channels = false;
  int passes = 1;           ///< 1, or 3, each over a third of the positions: less that must stay in the cache
  std::int64_t chunks = 4;  ///< by channels: of 16 channels each; a block is so many of either operand
};

/// Which blocking is fast for a problem on so many threads.
GradientBlocking default_gradient_blocking(const Problem& problem, int threads);

/// Where a weight gradient goes.
struct WeightGradient {
  void* dw = nullptr;  ///< {out, 3, 3, in}
  DType dtype = DType::f32;
};

struct GradientMemory {
  std::size_t scratch = 0, room = 0;  ///< bytes, the latter for each thread
};
GradientMemory weight_gradient_memory(const Problem& problem, const GradientBlocking& blocking, int threads);

/// dw {out, 3, 3, in} of x {batch, height, width, in} and dy {batch, out height, out width, out}, each read
/// through its source, whose per-channel arrays hold `in` and `out` floats. `scratch` is 64-byte aligned.
/// Equal bits for an equal blocking and number of threads; by channels, for any number. A NaN or an infinity
/// leaves no weight gradient of its channel finite, at the border of an image not even those that do not read
/// it; but in the border of an x without padding it may leave some.
void weight_gradient(const Problem& problem, const Source& x, const Source& dy, void* dw, DType dtype,
                     const GradientBlocking& blocking, int threads, std::byte* scratch, plan::Rooms rooms);

}  // namespace fusetape::backends::cpu::conv::winograd
