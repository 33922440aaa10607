#pragma once
#include "core/op.hpp"

/// Every op of the library by name. Each is defined in one file of ops/; ops/registry.cpp lists them.
namespace fusetape::ops {

using core::OpDef;

// pointwise.cpp: arithmetic; broadcasting
extern const OpDef add_op, sub_op, mul_op, div_op, pow_op, minimum_op, maximum_op;
extern const OpDef neg_op, abs_op, abs_grad_op, exp_op, log_op, sqrt_op;
extern const OpDef clamp_op, clamp_grad_op;

// activations.cpp
extern const OpDef relu_op, relu_grad_op, leaky_relu_op, leaky_relu_grad_op;
extern const OpDef sigmoid_op, sigmoid_grad_op, tanh_op, tanh_grad_op, gelu_op, gelu_grad_op;

// compare.cpp
extern const OpDef equal_op, not_equal_op, less_op, less_equal_op, greater_op, greater_equal_op, where_op;

// cast.cpp
extern const OpDef cast_op, bias_add_op, copy_variable_op;

// matmul.cpp
extern const OpDef matmul_op;

// shape.cpp
extern const OpDef reshape_op, broadcast_to_op, transpose_op, concat_op, slice_op, slice_grad_op, pad_op;

// reduce.cpp
extern const OpDef sum_op, mean_op, max_op, max_grad_op, argmax_op;

// conv.cpp
extern const OpDef conv2d_op, conv2d_grad_input_op, conv2d_grad_weight_op;

// batch_norm.cpp
extern const OpDef batch_norm_op, batch_norm_grad_op, batch_norm_inference_op;

// retention.cpp: a ReLU's mask instead of its output; only in plans
extern const OpDef relu_mask_op, relu_grad_mask_op;
// split_norm.cpp: batch norm in parts; only in plans
extern const OpDef batch_norm_statistics_op, batch_norm_apply_op, batch_norm_grad_sums_op,
    batch_norm_grad_apply_op;

// pooling.cpp
extern const OpDef max_pool2d_op, max_pool2d_grad_op, max_pool2d_gather_op, avg_pool2d_op, avg_pool2d_grad_op;

// softmax.cpp, cross_entropy.cpp, losses_pointwise.cpp
extern const OpDef softmax_op, softmax_grad_op, log_softmax_op, log_softmax_grad_op;
extern const OpDef cross_entropy_op, cross_entropy_grad_op;
extern const OpDef bce_logits_op, bce_logits_grad_op;

// random.cpp
extern const OpDef rand_op, randn_op, dropout_op;

// optimizer.cpp
extern const OpDef grad_norm_op, sgd_update_op, adam_update_op;

}  // namespace fusetape::ops
