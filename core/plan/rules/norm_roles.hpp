#pragma once
#include "core/plan/rules/group.hpp"

namespace fusetape::plan {

/// The operands and results of a batch_norm… node by name, whichever of the ops it is; y, g and what the op
/// does not have are left out.
NormRoles norm_roles(const Graph& graph, int node);

/// Where a forward normalisation takes its statistics from.
Statistics statistics_of(const GraphNode& norm);

/// Whether the node is a batch norm's gradient, or a part of one.
bool is_norm_gradient(const GraphNode& norm);

/// The batch_norm (or its repetition) whose ReLU made `y` directly from the x, γ (where known) and statistics
/// of `roles`; nullptr: the mask has to be read from y.
const GraphNode* forward_norm_of_mask(const Graph& graph, int y, const NormRoles& roles);

}  // namespace fusetape::plan
