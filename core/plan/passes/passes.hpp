#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/plan/plan.hpp"
#include "core/plan/rules/rules.hpp"

/// The planner's passes. planner.cpp calls them in order; each is named, timed and followed by a check of the
/// graph.
namespace fusetape::plan {

class Refusals;

/// Computes equal nodes once.
void merge_equal_nodes(Graph& graph);
/// Marks the nodes whose values nobody reads.
void drop_dead_nodes(Graph& graph);
/// Who reads what, among the nodes that are left; every later pass stands on it.
void find_consumers(Graph& graph);

/// Takes batch norms apart where convolutions beside them can carry the parts.
void carry_norms(Graph& graph, const Options& options);

/// Replaces what backward reads of forward's values by masks and recomputations, where `options` ask for it.
void decide_retention(Graph& graph, const Options& options);

/// Covers every live node that needs a kernel with exactly one group, by the rules where they apply, singly
/// elsewhere. Refusals are kept with their reasons.
std::vector<Group> fuse(const Graph& graph, const Backend& backend, RuleSet rules,
                        std::vector<RefusalReport>& refusals);

/// An activation's gradient whose kernel computes what it reads from a norm's x again gets that x for an
/// input: what it read is not written for its sake, and what only it read is not computed.
void leave_unread_unwritten(Graph& graph, std::vector<Group>& groups);

/// The chains of pointwise nodes that no group of `groups` has (`group_of`: which, by node; -1: none), each
/// with the sum or mean at its end. A chain is cut where the backend refuses it, and the report says so.
std::vector<Group> find_chains(const Graph& graph, const Backend& backend, const std::vector<Group>& groups,
                               const std::vector<int>& group_of, Refusals& refusals);

/// An order in which every group runs after those that it reads from, close to the recorded one; but an
/// update runs after everything else that is ready, as it may overwrite what a failed run goes back to.
void schedule(const Graph& graph, std::vector<Group>& groups);

/// The step from which on no kernel fails: what a failed run goes back to may be overwritten there.
std::size_t first_safe_step(const Plan& plan);

/// Offsets from lifetimes: what is dead at the end shares one arena, what lives on gets pooled buffers, and a
/// result takes over an operand's place where the operand's last reader writes it (`in_place`). What may not
/// be overwritten yet is replaced at the run's end, where the device `commits`.
void place_memory(Plan& plan, bool in_place, bool commits);

/// "model.cpp:42": where the node was recorded.
std::string place_of(const GraphNode& node);

/// What explain() says of the plan.
void describe(Plan& plan);
/// Bytes alive between forward and backward if every node were run by itself.
std::int64_t kept_unfused(const Graph& graph);

/// Throws (an internal assertion) where a group reads what no earlier one wrote, a value that lives on lies
/// in the arena, or what a failed run goes back to is overwritten while something can still fail.
void verify(const Plan& plan);

/// The value whose bytes a chain of views shows.
int root_of(const Graph& graph, int value);

}  // namespace fusetape::plan
