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

/// Of an activation's gradient: the batch_norm, whole or in part, from whose x what the gradient reads can be
/// computed again; nullptr: from none, and it has to be read.
const GraphNode* norm_before(const Graph& graph, const GraphNode& gradient);

/// The same, of the x, γ (where known) and statistics of `roles` only.
const GraphNode* norm_before(const Graph& graph, const GraphNode& gradient, const NormRoles& roles);

}  // namespace fusetape::plan
