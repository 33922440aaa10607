#pragma once
#include "backends/cpu/conv/winograd/weight_gradient.hpp"

/// dx and dw of a 3×3 convolution in one pass over the tiles of dx: dy is read, made and transformed once,
/// for both. dx comes of F(4×4, 3×3); dw of F(3×3, 4×4) with dy for the image and the 4×4 pixels of x for the
/// filter: it is found turned by half a circle.
namespace fusetape::backends::cpu::conv::winograd {

/// Sums of weights are read and written with each block: it has more tiles than that of a convolution alone.
/// (Measured on Zen 5 with 16 to 64 channels: 16, 64 and 128 tiles are slower.)
constexpr Blocking both_gradients_blocking = {.tiles = 32};

/// The scratch is for pointers to the sums, the rooms for all else.
GradientMemory both_gradients_memory(const Problem& problem, const Blocking& blocking, int threads);

/// `problem` is the forward convolution; x {batch, height, width, in} and dy {batch, out height, out width,
/// out} are read through their sources; u: the transformed weights of the input gradient; dx: its sink.
/// `blocking` has one part of outputs. Equal bits for an equal blocking and number of threads; NaNs as
/// convolve and weight_gradient have them.
void both_gradients(const Problem& problem, const Source& x, const Source& dy, const float* u, const Sink& dx,
                    const WeightGradient& weights, const Blocking& blocking, int threads, std::byte* scratch,
                    plan::Rooms rooms);

}  // namespace fusetape::backends::cpu::conv::winograd
