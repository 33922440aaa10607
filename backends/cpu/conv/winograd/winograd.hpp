#pragma once
#include <cstddef>
#include <cstdint>

#include "core/plan/backend.hpp"
#include "fusetape/dtype.hpp"

/// Winograd convolution, 3×3 with stride 1, with what stands before and after it: forward and backward-data
/// by F(4×4, 3×3), backward-weights by F(3×3, 4×4). NHWC; f32 or bf16 storage, arithmetic in f32. Any number
/// of channels and any image.
namespace fusetape::backends::cpu::conv::winograd {

/// x {batch, height, width, in}, w {out, 3, 3, in}, y {batch, height + 2·pad − 2, width + 2·pad − 2, out}; y
/// has at least one pixel. Backward-data is the `mirrored` problem with dy for x.
struct Problem {
  std::int64_t batch = 0, height = 0, width = 0, in = 0, out = 0;
  int pad = 1;  ///< 0 or 1; 2 in the mirror of 0

  std::int64_t out_height() const { return height + 2 * pad - 2; }
  std::int64_t out_width() const { return width + 2 * pad - 2; }
  /// The problem whose x is this one's y: dx = convolve(dy), with the weights turned.
  Problem mirrored() const { return {batch, out_height(), out_width(), out, in, 2 - pad}; }
};

/// What a convolution reads: v(x), channel by channel, 0 in the padding. Which form is told by what is given:
///
///     x               nothing but x
///     n               mean, scale, shift: batch norm, n = fma(scale, x − mean, shift)
///     relu(n)         and relu
///     relu(n + x2)    and x2: with a residual
///     relu(n + n2)    and mean2, scale2, shift2: two batch norms
///     fma(scale, x, fma(scale2, x2 − mean2, shift2))
///                     scale, x2, mean2, scale2, shift2, without a mean: batch norm's gradient, of the
///                     gradient x and the input x2
///
/// and no others. A NaN stays in the ReLU. Equal to the bit to the batch norm kernels, also in bf16, where
/// each term of a sum and v are rounded as if they had been stored. Per-channel arrays hold `in` floats.
struct Source {
  const void* x = nullptr;
  DType dtype = DType::f32;  ///< f32 or bf16; of x, x2 and written
  const float* mean = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  const void* x2 = nullptr;
  const float* mean2 = nullptr;
  const float* scale2 = nullptr;
  const float* shift2 = nullptr;
  bool relu = false;
  void* written = nullptr;  ///< v of every pixel goes here, too, unless v is x; no buffer of the inputs
};

enum class Sums : std::uint8_t {
  none,
  moments,   ///< mean of y, and the sum of (y − mean)²
  gradient,  ///< Σy and Σy·(norm_x − norm_mean)
};

/// What becomes of a convolution's result v, in this order: + bias, + z, ReLU (a NaN stays) or a mask,
/// rounded and stored in y, and the sums over what is stored. What there is together:
///
///     sums        beside them
///     none        z or not; ReLU, mask_y or neither
///     moments     nothing but a bias
///     gradient    z or not; mask_y, mask_x or neither
struct Sink {
  void* y = nullptr;
  DType dtype = DType::f32;     ///< f32 or bf16; of y, z, mask_y, mask_x and norm_x, all of y's shape
  const float* bias = nullptr;  ///< {out}
  const void* z = nullptr;      ///< may be y
  bool relu = false;
  const void* mask_y = nullptr;       ///< v stays where !(mask_y ≤ 0), and is 0 elsewhere
  const void* mask_x = nullptr;       ///< or where !(fma(mask_scale, mask_x − mask_mean, mask_shift) ≤ 0)
  const float* mask_mean = nullptr;   ///< {out}
  const float* mask_scale = nullptr;  ///< {out}
  const float* mask_shift = nullptr;  ///< {out}
  Sums sums = Sums::none;
  const void* norm_x = nullptr;      ///< with Sums::gradient
  const float* norm_mean = nullptr;  ///< {out}
  double* first = nullptr;           ///< {out}: the mean, or Σy
  double* second = nullptr;          ///< {out}: the sum of squares, or Σy·(norm_x − norm_mean)
};

/// How the work of a convolution is cut.
struct Blocking {
  std::int64_t tiles = 16;  ///< 4×4 tiles that a thread transforms at a time, rounded up to a multiple of 8
  int out_parts = 1;        ///< that many threads share their tiles, each with its own outputs
};

/// Which blocking is fast for a problem on so many threads.
Blocking default_blocking(const Problem& problem, int threads);

/// Bytes of the transformed weights.
std::size_t weights_bytes(const Problem& problem);

/// Transforms w {out, 3, 3, in} of `problem` into u (64-byte aligned). `for_input_gradient`: for convolve
/// with problem.mirrored(); w is then turned by half a circle, and in and out change places.
void transform_weights(const Problem& problem, const void* w, DType dtype, bool for_input_gradient, float* u,
                       int threads);

/// Of each thread's room.
std::size_t convolve_room_bytes(const Problem& problem, const Blocking& blocking, int threads);

/// y = sink(convolution of source with the weights of u). Equal bits for an equal blocking and number of
/// threads.
void convolve(const Problem& problem, const Source& source, const float* u, const Sink& sink,
              const Blocking& blocking, int threads, plan::Rooms rooms);

}  // namespace fusetape::backends::cpu::conv::winograd
