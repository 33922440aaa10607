#include "core/plan/rules/rules.hpp"

#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"

namespace fusetape::plan {
namespace {

using enum Family;

#define FUSETAPE_CLIPPED_UPDATE(name) \
  {"clip+" #name, optimizer, &ops::name##_op, match_updates, with::clipping},
#define FUSETAPE_UPDATE_RULE(name) {#name, optimizer, &ops::name##_op, match_updates},

/// ReLU has rows of its own: its kernels are older, and know more.
bool any_activation(const core::OpDef& op) { return op.activation && &op != &ops::relu_op; }
bool any_gradient(const core::OpDef& op) {
  return op.gradient_of != nullptr && op.gradient_of != &ops::relu_op;
}

/// In order: the first row that matches and is supported takes the nodes. Rows without a match function are
/// passes of their own that are switched here, too.
constexpr Rule rules[] = {
    {"batch norm in conv2d's transforms", transform, &ops::conv2d_op, match_carried},
    {"conv2d+batch_norm_statistics", transform, &ops::conv2d_op, match_conv_statistics},
    {"conv2d_grad_input&conv2d_grad_weight", transform, &ops::conv2d_grad_input_op, match_both_gradients,
     with::pair},
    {"batch norm in conv2d_grad_input's transforms", transform, &ops::conv2d_grad_input_op, match_carried},
    {"batch norm in conv2d_grad_weight's transforms", transform, &ops::conv2d_grad_weight_op, match_carried},
    {"batch_norm+relu, mask as bits", batch_norm, &ops::relu_mask_op, match_batch_norm_relu_mask},
    {"conv2d+batch_norm_inference+add+relu", convolution, &ops::relu_op, match_conv, with::norm | with::add},
    {"conv2d+batch_norm_inference+relu", convolution, &ops::relu_op, match_conv, with::norm},
    {"conv2d+batch_norm_inference+add", convolution, &ops::add_op, match_conv, with::norm},
    {"conv2d+batch_norm_inference", convolution, &ops::batch_norm_inference_op, match_conv, with::norm},
    {"batch_norm+relu+max_pool2d", batch_norm, &ops::max_pool2d_op, match_norm_max_pool},
    {"batch_norm+add+relu", batch_norm, &ops::relu_op, match_batch_norm, with::add},
    {"batch_norm+relu", batch_norm, &ops::relu_op, match_batch_norm},
    {"batch_norm+add+activation", batch_norm, any_activation, match_batch_norm, with::add},
    {"batch_norm+activation", batch_norm, any_activation, match_batch_norm},
    {"batch_norm+add", batch_norm, &ops::add_op, match_batch_norm, with::add},
    {"conv2d&conv2d", convolution, &ops::conv2d_op, match_conv_siblings},
    {"conv2d+add+relu", convolution, &ops::relu_op, match_conv, with::add},
    {"conv2d+bias+relu", convolution, &ops::relu_op, match_conv},
    {"matmul+bias+relu", convolution, &ops::relu_op, match_linear_activation},
    {"matmul+bias+gelu", convolution, &ops::gelu_op, match_linear_activation},
    {"matmul+bias", convolution, &ops::bias_add_op, match_linear_bias},
    {"matmul+cast", convolution, &ops::cast_op, match_matmul_cast},
    {"conv2d_grad_input&conv2d_grad_input+add", convolution, &ops::conv2d_grad_input_op,
     match_conv_grad_input_siblings},
    {"relu_grad+batch_norm_grad, mask from x", batch_norm, &ops::relu_grad_op, match_norm_gradient,
     with::mask_from_x},
    {"relu_grad+batch_norm_grad, mask from y", batch_norm, &ops::relu_grad_op, match_norm_gradient},
    {"relu_grad+batch_norm_grad, mask as bits", batch_norm, &ops::relu_grad_mask_op, match_norm_gradient},
    {"activation_grad+batch_norm_grad, from x", batch_norm, any_gradient, match_norm_gradient,
     with::mask_from_x},
    {"activation_grad+batch_norm_grad", batch_norm, any_gradient, match_norm_gradient},
    {"conv2d+add", convolution, &ops::add_op, match_conv},
    {"conv2d+bias", convolution, &ops::bias_add_op, match_conv},
    {"conv2d_grad_input+add", residual, &ops::add_op, match_conv_grad_input_add},
    {"relu_grad+bias_grad", convolution, &ops::relu_grad_op, match_bias_relu_gradient},
    {"relu_grad+bias_grad, mask as bits", convolution, &ops::relu_grad_mask_op, match_bias_relu_gradient},
    {"conv2d_grad_weight&conv2d_grad_weight", convolution, &ops::conv2d_grad_weight_op, match_conv_siblings},
    {"conv2d_grad_weight+cast", convolution, &ops::cast_op, match_conv_grad_weight_cast},
    {"max_pool2d_grad+relu_grad", pointwise, &ops::relu_grad_op, match_max_pool_relu_gradient},
    FUSETAPE_UPDATE_OPS(FUSETAPE_CLIPPED_UPDATE)  //
    FUSETAPE_UPDATE_OPS(FUSETAPE_UPDATE_RULE)     //
    {"pointwise", pointwise, nullptr, nullptr},
    {"carry", transform, nullptr, nullptr},
    {"mask", memory, nullptr, nullptr},
    {"recompute", memory, nullptr, nullptr},
    {"share in place", memory, nullptr, nullptr},
};
static_assert(std::size(rules) <= 64, "a RuleSet has a bit for each");

}  // namespace

std::span<const Rule> fusion_rules() { return rules; }

const char* name_of(Family family) {
  switch (family) {
    case pointwise:
      return "pointwise";
    case convolution:
      return "convolution";
    case batch_norm:
      return "batch_norm";
    case residual:
      return "residual";
    case optimizer:
      return "optimizer";
    case transform:
      return "transform";
    case memory:
      return "memory";
  }
  return "?";
}

RuleSet rules_named(std::string_view name) {
  RuleSet set = 0;
  for (std::size_t i = 0; i < std::size(rules); ++i) {
    if (rules[i].name == name || name_of(rules[i].family) == name) set |= RuleSet{1} << i;
  }
  return set;
}

bool has_rule(RuleSet set, std::string_view name) {
  for (std::size_t i = 0; i < std::size(rules); ++i) {
    if (rules[i].name == name) return (set >> i & 1) != 0;
  }
  return false;
}

RuleSet in_place_only() { return rules_named("share in place"); }

}  // namespace fusetape::plan
