#pragma once
#include <optional>
#include <string_view>

#include "core/plan/rules/rules.hpp"

/// What the rules share, and the rules themselves, by file.
namespace fusetape::plan {

/// The free node that makes `value` for this one reader only; nullptr otherwise. A value that somebody can
/// name, or with other readers, is a near miss.
const GraphNode* private_producer(const Cover& cover, int value, const core::OpDef& op, NearMiss& miss);
/// `operand` has to be repeated to fit, and so `outside` cannot join.
NearMiss broadcast_operand(const Graph& graph, int operand, int outside);
/// The free node that makes `value`, whoever else reads it.
const GraphNode* free_producer(const Cover& cover, int value, const core::OpDef& op);
int id_of(const Cover& cover, const GraphNode& node);
bool same_shape(const Graph& graph, int a, int b);
int only_if_used(const Graph& graph, int value);
/// What an activation, or the gradient of one, reads behind its tensors.
void take_numbers(const GraphNode& node, int (&numbers)[2]);

using Match = std::optional<Group>(const Cover& cover, int node, Parts parts, NearMiss& miss);

// carried_rules.cpp
Match match_carried, match_both_gradients, match_conv_statistics;
// norm_rules.cpp
Match match_batch_norm_relu_mask, match_batch_norm, match_norm_max_pool, match_norm_gradient;
// conv_rules.cpp
Match match_conv, match_bias_relu_gradient, match_conv_grad_input_add, match_conv_grad_weight_cast;
// sibling_rules.cpp
Match match_conv_siblings, match_conv_grad_input_siblings;
// linear_rules.cpp
Match match_linear_activation, match_linear_bias, match_matmul_cast, match_max_pool_relu_gradient;
// update_rules.cpp
Match match_updates;

}  // namespace fusetape::plan
