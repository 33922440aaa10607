#pragma once
#include "core/numerics/update_formulas.hpp"
#include "core/op/op.hpp"

/// The list of all ops. X(name) stands for ops::name_op, which one file of ops/ defines. An op *is* this
/// object: who looks for one compares addresses, and what else there is to know of it stands in its fields.

/// One element at a time, by the formula of this name (core/numerics/formulas.inc), which takes so many
/// tensors and then so many numbers (OpDef::numbers): X(name, tensors, numbers).
// clang-format off
#define FUSETAPE_POINTWISE_OPS(X)                                                                    \
  /* arithmetic */                                                                                   \
  X(add, 2, 0) X(sub, 2, 0) X(mul, 2, 0) X(div, 2, 0) X(pow, 2, 0) X(minimum, 2, 0) X(maximum, 2, 0) \
  X(neg, 1, 0) X(abs, 1, 0) X(abs_grad, 2, 0) X(exp, 1, 0) X(log, 1, 0) X(sqrt, 1, 0) X(clamp, 1, 2) \
  X(clamp_grad, 2, 2) X(bias_add, 2, 0) X(rsqrt, 1, 0) X(expm1, 1, 0) X(log1p, 1, 0) X(sin, 1, 0)    \
  X(cos, 1, 0) X(floor, 1, 0) X(round, 1, 0) X(sign, 1, 0)                                           \
  /* comparisons, choices, conversions */                                                            \
  X(equal, 2, 0) X(not_equal, 2, 0) X(less, 2, 0) X(less_equal, 2, 0) X(greater, 2, 0)               \
  X(greater_equal, 2, 0) X(where, 3, 0) X(cast, 1, 0) X(broadcast_to, 1, 0)                          \
  /* activations */                                                                                  \
  X(relu, 1, 0) X(relu_grad, 2, 0) X(relu6, 1, 0) X(relu6_grad, 2, 0) X(leaky_relu, 1, 1)            \
  X(leaky_relu_grad, 2, 1) X(elu, 1, 1) X(elu_grad, 2, 1) X(sigmoid, 1, 0) X(sigmoid_grad, 2, 0)     \
  X(tanh, 1, 0) X(tanh_grad, 2, 0) X(gelu, 1, 0) X(gelu_grad, 2, 0) X(gelu_tanh, 1, 0) X(gelu_tanh_grad, 2, 0) X(silu, 1, 0) X(silu_grad, 2, 0) \
  X(softplus, 1, 0) X(mish, 1, 0) X(mish_grad, 2, 0) X(hardsigmoid, 1, 0) X(hardsigmoid_grad, 2, 0)  \
  X(hardswish, 1, 0) X(hardswish_grad, 2, 0)                                                         \
  /* losses */                                                                                       \
  X(bce_logits, 2, 0) X(bce_logits_grad, 3, 0)

#define FUSETAPE_OTHER_OPS(X)                                                                          \
  /* linear algebra, convolution, normalisation, pooling */                                            \
  X(matmul) X(conv2d) X(conv2d_grad_input) X(conv2d_grad_weight) X(batch_norm) X(batch_norm_grad)      \
  X(batch_norm_inference) X(group_norm) X(group_norm_grad) X(max_pool2d) X(max_pool2d_grad) X(max_pool2d_gather) X(avg_pool2d)          \
  X(avg_pool2d_grad)                                                                                   \
  /* shape, reductions */                                                                              \
  X(reshape) X(transpose) X(concat) X(slice) X(slice_grad) X(pad) X(copy_variable) X(sum) X(mean)      \
  X(max) X(max_grad) X(argmax) X(cumsum) X(topk) X(index_select) X(index_select_grad) X(gather) X(gather_grad)                                                                         \
  /* losses */                                                                                         \
  X(softmax) X(softmax_grad) X(log_softmax) X(log_softmax_grad) X(cross_entropy) X(cross_entropy_grad) \
  /* only in plans: a ReLU's mask in place of its output, and batch norm in parts */                   \
  X(relu_mask) X(relu_grad_mask) X(batch_norm_statistics) X(batch_norm_apply) X(batch_norm_grad_sums)  \
  X(batch_norm_grad_apply)                                                                             \
  /* random, norms of gradients */                                                                     \
  X(rand) X(randn) X(dropout) X(grad_norm)                                                             \
  /* one for each optimizer */                                                                         \
  FUSETAPE_UPDATE_OPS(X)
// clang-format on

namespace fusetape::ops {

using core::OpDef;

#define FUSETAPE_DECLARE_OP(name, ...) extern const OpDef name##_op;
FUSETAPE_POINTWISE_OPS(FUSETAPE_DECLARE_OP)
FUSETAPE_OTHER_OPS(FUSETAPE_DECLARE_OP)
#undef FUSETAPE_DECLARE_OP

}  // namespace fusetape::ops
