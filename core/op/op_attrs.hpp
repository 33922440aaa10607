#pragma once
#include <array>
#include <cstdint>

#include "fusetape/shape.hpp"

/// The attributes of ops, as ops/ packs them and backends read them. Fields are std::int64_t or double only.
/// Above each: the ops, their inputs → outputs. Values that may change each step (learning rate, counters)
/// are scalar inputs, never attributes.
namespace fusetape::core {

struct NoAttrs {
  std::int64_t unused = 0;
};

/// conv2d: x {N,H,W,C}, w {O,kh,kw,C/g} → y.
/// conv2d_grad_input: g {N,OH,OW,O}, w → dx {N,H,W,C} (also conv_transpose2d's forward).
/// conv2d_grad_weight: x, g → dw {O,kh,kw,C/g}.
struct ConvAttrs {
  std::int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1, groups = 1;
  std::int64_t kernel_h = 0, kernel_w = 0;  ///< of w
  std::int64_t input_h = 0, input_w = 0;    ///< of x (grad_input's output)
};

/// matmul: a {…,M,K}, b {…,K,N} → {…,M,N}; leading axes equal, or one side is a matrix (rank 2).
struct MatmulAttrs {
  std::int64_t transpose_a = 0, transpose_b = 0;  ///< of the last two axes, before the product
};

/// batch_norm: x {…,C}, gamma, beta [, running_mean, running_var], momentum (f64) → y, mean {C}, inv_std {C}
/// [, new_mean, new_var]. gamma, beta and the statistics are f32 (f64 with f64 x). inv_std = 1/√(σ²+eps), σ²
/// biased. new = (1−momentum)·running + momentum·batch, variance ·n/(n−1); running, where x is empty. n = 1
/// is refused. batch_norm_grad: g, x, gamma, mean, inv_std → dx, dgamma, dbeta. batch_norm_inference: x,
/// gamma, beta, running_mean, running_var → y. In f32 forward kernels: a = γ·inv_std, y = fma(a, x − mean,
/// β), each rounded to f32 — equal to the bit wherever a mask is recomputed. Only in plans, the same in
/// parts: batch_norm_statistics: x [, running_mean, running_var], momentum → mean, inv_std [, new_mean,
/// new_var]. batch_norm_apply: x, gamma, beta, mean, inv_std → y, the same a and y. batch_norm_grad_sums: g,
/// x, mean, inv_std → dgamma, dbeta. batch_norm_grad_apply: g, x, gamma, mean, inv_std, dgamma, dbeta → dx.
/// ε is an attribute: it belongs to the model.
struct BatchNormAttrs {
  double eps = 1e-5;
};

/// group_norm: x {outer…, pixels…, C}, gamma {C}, beta {C} → y, mean, inv_std {outer, groups}.
/// group_norm_grad: g, x, gamma, mean, inv_std → dx, dgamma, dbeta.
struct GroupNormAttrs {
  double eps = 1e-5;
  std::int64_t outer_axes = 0;  ///< so many leading axes count samples
  std::int64_t groups = 1;
};
struct GroupView {
  std::int64_t outer = 1, pixels = 1, groups, width;  ///< width: channels of a group
  GroupView(const Shape& x, const GroupNormAttrs& a) : groups(a.groups), width(x.back() / a.groups) {
    for (int axis = 0; axis + 1 < x.rank(); ++axis) (axis < a.outer_axes ? outer : pixels) *= x[axis];
  }
};

/// max_pool2d: x → y, index (u8, or i64 when the window has more than 256 places): the place in the window,
/// row-major, of the first largest element; NaN wins. max_pool2d_grad: g, index → dx. avg_pool2d: x → y.
/// avg_pool2d_grad: g → dx.
struct Pool2dAttrs {
  std::int64_t window_h = 2, window_w = 2, stride_h = 2, stride_w = 2, pad_h = 0, pad_w = 0;
  std::int64_t count_padding = 1;
  std::int64_t input_h = 0, input_w = 0;
};

/// sum, mean, max: x → y. max_grad: g, x, y → dx. `axes` is a bit mask, never empty unless x is a scalar.
/// argmax: x → i64 (one axis).
struct ReduceAttrs {
  std::int64_t axes = 0;
  std::int64_t keep_dims = 0;
  bool has(int axis) const { return ((axes >> axis) & 1) != 0; }
};

/// reshape (view), broadcast_to (pointwise): x → y of this shape.
struct ShapeAttrs {
  std::int64_t rank = 0;
  std::array<std::int64_t, Shape::max_rank> extents{};
};

/// transpose: output axis i is input axis permutation[i].
struct TransposeAttrs {
  std::array<std::int64_t, Shape::max_rank> permutation{};
};

/// concat: any number of inputs → y along `axis`.
struct ConcatAttrs {
  std::int64_t axis = 0;
};

/// slice: x, start (i64 scalar) → y, of `length` on the axis. slice_grad: g, start → dx (zeros outside),
/// extent = x's on the axis.
struct SliceAttrs {
  std::int64_t axis = 0, length = 0, step = 1, extent = 0;
};

/// pad: x, value (a scalar of x's dtype) → y.
struct PadAttrs {
  std::array<std::int64_t, Shape::max_rank> before{}, after{};
};

/// cast: x → y.
struct CastAttrs {
  std::int64_t dtype = 0;
};

/// softmax, log_softmax: x → y. softmax_grad, log_softmax_grad: g, y → dx.
struct AxisAttrs {
  std::int64_t axis = 0;
  std::int64_t keep_dims = 0;  ///< argmax only
};

/// cumsum: x → y; reverse: from the end. topk: x → the largest `count` along the axis, their places (i64).
/// index_select: x, index {K} (i64) → y, K places of the axis; index_select_grad: g, index → dx, `count`
/// places of the axis. gather: x, index (i64, of x's rank) → y like index; gather_grad: g, index → dx, the
/// same.
struct AlongAttrs {
  std::int64_t axis = 0;
  std::int64_t count = 0;
  std::int64_t reverse = 0;
};

/// A tensor as {outer, places of the axis, inner}.
struct AxisView {
  std::int64_t outer = 1, places, inner = 1;
  AxisView(const Shape& shape, std::int64_t axis) : places(shape[static_cast<int>(axis)]) {
    for (int i = 0; i < shape.rank(); ++i) {
      if (i < axis) outer *= shape[i];
      if (i > axis) inner *= shape[i];
    }
  }
  std::int64_t at(std::int64_t o, std::int64_t place, std::int64_t i) const {
    return (o * places + place) * inner + i;
  }
};

/// cross_entropy: logits {N,C}, labels {N}, label_smoothing (f64 scalar) → loss ({} or {N}).
/// cross_entropy_grad: g, logits, labels, label_smoothing → dlogits.
struct CrossEntropyAttrs {
  std::int64_t reduction = 0;  ///< as enum Reduction: mean, sum, none
};

/// rand, randn: seed (i64 scalar), counter (i64 scalar) → y of this shape and dtype.
struct RandomAttrs {
  std::int64_t dtype = 0;
  std::int64_t rank = 0;
  std::array<std::int64_t, Shape::max_rank> extents{};
};

/// dropout (NoAttrs): x, seed (i64 scalar), counter (i64 scalar), p (f64 scalar) → y; its own gradient,
/// applied to g. Element i is dropped where philox_uniform(seed, counter, i) < p.
///
/// grad_norm (NoAttrs): any number of gradients → √Σ g² over all their elements, f32 (f64 of f64), a scalar.

/// An optimizer's update (core/numerics/update_formulas.inc).
struct UpdateAttrs {
  std::int64_t variant = 0;
};

}  // namespace fusetape::core

// Pointwise ops (one output; inputs broadcast to its shape), attributes NoAttrs unless named above:
//   add sub mul div pow minimum maximum          a, b
//   neg abs exp log sqrt rsqrt expm1 log1p sin cos floor round sign relu sigmoid tanh gelu gelu_tanh  x
//   relu_grad            g, y     → !(y ≤ 0) ? g : 0
//   sigmoid_grad         g, y     → g·y·(1−y)
//   tanh_grad            g, y     → g·(1−y²)
//   gelu_grad, gelu_tanh_grad   g, x
//   abs_grad             g, x     → g·sign(x), 0 at 0
//   clamp                x, low, high       (f64 scalars, as the slope below)
//   clamp_grad           g, x, low, high
//   leaky_relu           x, slope
//   leaky_relu_grad      g, x, slope
//   equal not_equal less less_equal greater greater_equal   a, b → bool
//   where                condition (bool), a, b
//   cast broadcast_to    x
//   bias_add             x {…,C}, b {C}
//   mse bce_with_logits are compositions of these plus mean/sum; bce's elementwise part is the pointwise op
//   `bce_logits`: x, t and `bce_logits_grad`: g, x, t → g·(sigmoid(x) − t). copy_variable        x        → x
//   (fusetape::variable; a view)
