#include "core/check.hpp"
#include "ops/ops.hpp"

namespace fusetape::core {
namespace {

using namespace ops;

// clang-format off
const OpDef* const registry[] = {
    // arithmetic
    &add_op, &sub_op, &mul_op, &div_op, &pow_op, &minimum_op, &maximum_op, &neg_op, &abs_op,
    &abs_grad_op, &exp_op, &log_op, &sqrt_op, &clamp_op, &clamp_grad_op,
    // activations
    &relu_op, &relu_grad_op, &leaky_relu_op, &leaky_relu_grad_op, &sigmoid_op, &sigmoid_grad_op,
    &tanh_op, &tanh_grad_op, &gelu_op, &gelu_grad_op,
    // comparisons, casts
    &equal_op, &not_equal_op, &less_op, &less_equal_op, &greater_op, &greater_equal_op, &where_op,
    &cast_op, &bias_add_op, &copy_variable_op,
    // linear algebra, convolution, normalisation, pooling
    &matmul_op, &conv2d_op, &conv2d_grad_input_op, &conv2d_grad_weight_op, &batch_norm_op,
    &batch_norm_grad_op, &batch_norm_inference_op, &max_pool2d_op, &max_pool2d_grad_op,
    &max_pool2d_gather_op, &avg_pool2d_op, &avg_pool2d_grad_op,
    // shape, reductions
    &reshape_op, &broadcast_to_op, &transpose_op, &concat_op, &slice_op, &slice_grad_op, &pad_op,
    &sum_op, &mean_op, &max_op, &max_grad_op, &argmax_op,
    // losses
    &softmax_op, &softmax_grad_op, &log_softmax_op, &log_softmax_grad_op, &cross_entropy_op,
    &cross_entropy_grad_op, &bce_logits_op, &bce_logits_grad_op,
    // only in plans
    &relu_mask_op, &relu_grad_mask_op, &batch_norm_statistics_op, &batch_norm_apply_op,
    &batch_norm_grad_sums_op, &batch_norm_grad_apply_op,
    // random, optimizers
    &rand_op, &randn_op, &dropout_op, &grad_norm_op, &sgd_update_op, &adam_update_op,
};
// clang-format on

}  // namespace

std::span<const OpDef* const> all_ops() { return registry; }

const OpDef& find_op(std::string_view name) {
  for (const OpDef* op : all_ops()) {
    if (op->is(name)) return *op;
  }
  assertion_failed("the op has a name of the list", __FILE__, __LINE__);
}

}  // namespace fusetape::core
