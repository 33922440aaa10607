#pragma once
#include <cstdint>

#include "fusetape/operand.hpp"
#include "fusetape/size2d.hpp"

/// Recorded, differentiable ops of images {N, H, W, C}: convolution, normalisation, pooling, other sizes.
namespace fusetape {

// ---- convolution
// ------------------------------------------------------------------------------------------------------
/// Each size is {height, width}; a single number is both: `{.padding = 1}`.
struct Conv2dOptions {
  Size2d stride = 1;
  Padding2d padding = 0;  ///< where it is not symmetric, the rest is a copy of x with a border
  Size2d dilation = 1;
  std::int64_t groups = 1;
};
/// Cross-correlation. x {N, H, W, C}, w {O, kh, kw, C/groups} → {N, OH, OW, O}, OH = (H + 2p − d(kh−1) − 1)/s
/// + 1.
Tensor conv2d(Operand x, Operand w, Conv2dOptions options = {});
Tensor conv2d(Operand x, Operand w, Operand b, Conv2dOptions options = {});

struct ConvTranspose2dOptions {
  Size2d stride = 1;
  Padding2d padding = 0;  ///< symmetric
  Size2d output_padding = 0;
  Size2d dilation = 1;
  std::int64_t groups = 1;
};
/// The gradient of conv2d by its input, as a layer. x {N, H, W, C}, w {C, kh, kw, O/groups} →
/// {N, OH, OW, O}, OH = (H−1)s − 2p + d(kh−1) + output_padding + 1.
Tensor conv_transpose2d(Operand x, Operand w, ConvTranspose2dOptions options = {});

// ---- normalisation
// ----------------------------------------------------------------------------------------------------
struct BatchNormOptions {
  double eps = 1e-5;      ///< part of the model: each new one makes a new plan
  double momentum = 0.1;  ///< a run-time input; running = (1 − momentum)·running + momentum·batch; the
                          ///< variance enters unbiased (n/(n−1)) and an empty batch not at all
};
struct BatchNormResult {
  Tensor y;                          ///< γ(x−μ)/√(σ²+ε) + β
  Tensor running_mean, running_var;  ///< the new versions; undefined when none were given
};
/// Training mode: statistics of this batch over all axes but the last. x {…, C}; gamma, beta {C}. One value a
/// channel (N·H·W = 1) is an Error: leave such a last batch out with the loader's drop_last. y is made as
/// (x−μ)·a + β with a = γ/√(σ²+ε), to a few units in the last place of the larger summand, however large μ
/// is; squares of x may exceed f32, x − μ may not.
BatchNormResult batch_norm(Operand x, Operand gamma, Operand beta, const Tensor& running_mean,
                           const Tensor& running_var, BatchNormOptions options = {});
Tensor batch_norm(Operand x, Operand gamma, Operand beta, BatchNormOptions options = {});
/// Evaluation mode: the given statistics. Folded into the convolution before it, as plans and fold_batch_norm
/// do, y is (a·w)∗x + a(b−μ)+β, each factor rounded once: where μ is large beside the deviation, its error is
/// a few units in the last place of a·μ.
Tensor batch_norm_inference(Operand x, Operand gamma, Operand beta, Operand running_mean, Operand running_var,
                            BatchNormOptions options = {});

/// y = (x − μ)·γ/√(σ² + eps) + β, statistics of each sample and group of channels: x {N, …, C}, gamma and
/// beta {C} (f32 beside 16 bits), groups a divisor of C. One group: of whole samples; C groups: "instance
/// norm". A group of one value gives β. On a GPU on the host, as explain() says. (Wu, He, "Group
/// Normalization", 2018.)
Tensor group_norm(Operand x, std::int64_t groups, Operand gamma, Operand beta, double eps = 1e-5);
/// The same over the last axis of x {…, C} (Ba, Kiros, Hinton, "Layer Normalization", 2016).
Tensor layer_norm(Operand x, Operand gamma, Operand beta, double eps = 1e-5);

// ---- pooling
// ----------------------------------------------------------------------------------------------------------
struct Pool2dOptions {
  Size2d window = 2;
  Size2d stride = 0;  ///< 0: the window
  Padding2d padding = 0;
  bool count_padding = true;  ///< average pooling divides by the whole window
  bool ceil_mode = false;     ///< the last windows may hang over the edge by less than a stride, as PyTorch's
};
/// The gradient goes to the first of a window's equal elements. Padding that is not symmetric, and what
/// ceil_mode adds, is a border around a copy of x: of the least finite number for max pooling.
Tensor max_pool2d(Operand x, Pool2dOptions options = {});
Tensor avg_pool2d(Operand x, Pool2dOptions options = {});
/// With the window alone: `max_pool2d(x, 2)`.
Tensor max_pool2d(Operand x, Size2d window);
Tensor avg_pool2d(Operand x, Size2d window);
/// {N, H, W, C} → {N, C}.
Tensor global_avg_pool(Operand x);

// ---- other sizes
// ------------------------------------------------------------------------------------------------------
/// {N, H, W, C} → {N, OH, OW, C}, each output pixel the mean of its bin: rows ⌊o·H/OH⌋ to ⌈(o+1)·H/OH⌉,
/// columns likewise. size ≥ 1.
Tensor adaptive_avg_pool2d(Operand x, Size2d size);
enum class Upsampling : std::uint8_t {
  nearest,   ///< pixel ⌊o·H/OH⌋
  bilinear,  ///< between the centres of pixels (PyTorch's align_corners = false, without antialias)
};
/// To OH, OW ≥ 1 of any ratio. Bilinear images of 16 bits are rounded once for each axis.
Tensor upsample(Operand x, Size2d size, Upsampling by = Upsampling::nearest);
/// {N, H, W, C·r²} → {N, H·r, W·r, C}: channel c·r² + i·r + j becomes pixel (i, j) of channel c (Shi et al.
/// 2016).
Tensor pixel_shuffle(Operand x, std::int64_t r);

}  // namespace fusetape
