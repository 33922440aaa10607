#include <algorithm>
#include <map>
#include <utility>

#include "core/check.hpp"
#include "core/op/op_list.hpp"
#include "core/plan/passes/cost.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/rules/norm_roles.hpp"

namespace fusetape::plan {
namespace {

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::forward:
      return "forward";
    case Phase::backward:
      return "backward";
    case Phase::update:
      return "update";
  }
  return "?";
}

std::string module_of(const GraphNode& node) { return node.module_path != nullptr ? *node.module_path : ""; }

/// One kernel, as far as lifetimes go.
struct Launch {
  const std::vector<int>& reads;
  const std::vector<int>& writes;
  Phase phase;
};

/// The values that a launch of forward wrote and that are needed when backward begins, in order.
std::vector<int> kept_for_backward(const Graph& graph, const std::vector<Launch>& launches) {
  const int end = static_cast<int>(launches.size());
  int boundary = 0;
  while (boundary < end && launches[static_cast<std::size_t>(boundary)].phase == Phase::forward) ++boundary;

  std::vector<int> last_use(graph.values.size(), -1);
  for (int i = 0; i < end; ++i) {
    for (int value : launches[static_cast<std::size_t>(i)].reads)
      last_use[static_cast<std::size_t>(root_of(graph, value))] = i;
  }
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const GraphValue& value = graph.values[v];
    const bool computed = value.producer >= 0 && !graph.node(value.producer).dead;
    if (value.keep && computed) last_use[static_cast<std::size_t>(root_of(graph, static_cast<int>(v)))] = end;
  }
  std::vector<int> kept;
  for (int i = 0; i < boundary; ++i) {
    for (int value : launches[static_cast<std::size_t>(i)].writes) {
      if (last_use[static_cast<std::size_t>(value)] >= boundary) kept.push_back(value);
    }
  }
  return kept;
}

void describe_kept(const Plan& plan, Report& report) {
  const Graph& graph = plan.graph;
  std::vector<Launch> launches;
  std::vector<int> step_of(graph.values.size(), -1);
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const Group& group = plan.groups[static_cast<std::size_t>(plan.steps[s].group)];
    launches.push_back({group.inputs, group.outputs, graph.node(group.nodes.back()).phase});
    for (int output : group.outputs) step_of[static_cast<std::size_t>(output)] = static_cast<int>(s);
  }
  for (int id : kept_for_backward(graph, launches)) {
    const GraphValue& value = graph.value(id);
    const GraphNode& node = graph.node(value.producer);
    report.kept.push_back({std::string(node.op->name), module_of(node), place_of(node), value.shape,
                           value.dtype, value.bytes()});
    report.kept_bytes += value.bytes();
    const int step = step_of[static_cast<std::size_t>(id)];
    report.groups[static_cast<std::size_t>(step)].kept_bytes += value.bytes();
  }
}

struct Cost {
  double passes = 0;
  std::int64_t bytes = 0;
};

/// Of a node run by itself in a plan that keeps every value: there is nothing to recompute, and a ReLU's
/// gradient reads y, not a mask.
Cost unfused_cost(const Graph& graph, const GraphNode& node) {
  if (node.op->view || node.recomputed || node.is(ops::relu_mask_op)) return {};
  if (node.is(ops::relu_grad_mask_op)) return {3, 3 * graph.value(node.outputs[0]).bytes()};
  const double passes = tensor_passes(graph, node);
  return {passes, bytes_moved(graph, node.inputs, node.outputs, passes)};
}

void describe_unfused(const Graph& graph, const Group& group, GroupReport& out) {
  for (int node : group.nodes) {
    const Cost cost = unfused_cost(graph, graph.node(node));
    out.unfused_passes += cost.passes;
    out.unfused_bytes += cost.bytes;
  }
}

void describe_largest(const Graph& graph, const Group& group, GroupReport& out) {
  std::int64_t most = -1;
  for (const std::vector<int>* values : {&group.inputs, &group.outputs}) {
    for (int id : *values) {
      const GraphValue& value = graph.value(id);
      if (value.elements() <= most) continue;
      most = value.elements();
      out.shape = value.shape;
      out.dtype = value.dtype;
    }
  }
}

void describe_arithmetic(const Graph& graph, const Group& group, const Kernel& kernel, GroupReport& out) {
  for (int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    const double flops = flops_of(graph, node);
    if (flops > 0) out.kernel_dtype = graph.value(node.inputs[0]).dtype;
    out.flops += flops;
  }
  out.kernel_flops = out.flops;
  if (kernel.arithmetic.has_value()) {
    out.kernel_flops = kernel.arithmetic->flops;
    out.kernel_dtype = kernel.arithmetic->dtype;
  }
}

/// An op's name to the program that recorded it; empty: it recorded none such.
std::string_view recorded_name(const GraphNode& node) {
  if (node.op->view || node.is(ops::relu_mask_op)) return {};
  if (node.is(ops::relu_grad_mask_op)) return ops::relu_grad_op.name;
  if (node.is(ops::bias_add_op)) return "bias";  // as groups are named
  if (node.op->norm == nullptr || node.is(ops::batch_norm_inference_op)) return node.op->name;
  if (node.is(ops::group_norm_op) || node.is(ops::group_norm_grad_op)) return node.op->name;
  return is_norm_gradient(node) ? ops::batch_norm_grad_op.name : ops::batch_norm_op.name;
}

std::string recorded_ops(const Graph& graph, const Group& group) {
  std::string names;
  for (int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    const std::string_view name = recorded_name(node);
    if (!node.recomputed && !name.empty()) names += (names.empty() ? "" : "+") + std::string(name);
  }
  return names;
}

GroupReport describe_group(const Graph& graph, const Group& group, const Kernel& kernel) {
  const GraphNode& node = graph.node(group.nodes.back());
  GroupReport out;
  out.name = group.name;
  out.recorded = recorded_ops(graph, group);
  out.rule = group.rule;
  out.kernel = kernel.name;
  out.why = kernel.why;
  out.module_path = module_of(node);
  out.source = place_of(node);
  out.phase = name_of(node.phase);
  out.ops = static_cast<int>(group.nodes.size());
  out.tensor_passes = kernel.tensor_passes;
  out.bytes = bytes_moved(graph, group.inputs, group.outputs, kernel.tensor_passes);
  describe_unfused(graph, group, out);
  describe_largest(graph, group, out);
  describe_arithmetic(graph, group, kernel, out);
  return out;
}

void describe_ops(const Plan& plan, Report& report) {
  std::map<int, OpReport> ops;  // by what was recorded
  std::map<int, bool>
      again;  // what a checkpoint() records once more for its gradient is no op of the program
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const Group& group = plan.groups[static_cast<std::size_t>(plan.steps[s].group)];
    for (const int id : group.nodes) {
      const GraphNode& node = plan.graph.node(id);
      const std::string_view name = recorded_name(node);
      if (name.empty()) continue;
      OpReport& op = ops[node.recorded];
      again[node.recorded] = node.recomputed && (op.op.empty() || again[node.recorded]);
      if (op.op.empty() || !node.recomputed) {
        op.op = name;
        op.module_path = module_of(node);
        op.source = place_of(node);
        op.phase = name_of(node.phase);
      }
      if (op.kernels.empty() || op.kernels.back() != static_cast<int>(s))
        op.kernels.push_back(static_cast<int>(s));
      for (const int output : node.outputs) {
        const std::int64_t bytes = plan.graph.value(output).bytes();
        const bool written = std::count(group.outputs.begin(), group.outputs.end(), output) > 0;
        op.written = bytes > op.bytes ? written : op.written || (bytes == op.bytes && written);
        op.bytes = std::max(op.bytes, bytes);
      }
    }
  }
  for (auto& [recorded, op] : ops) {
    if (!again[recorded]) report.ops.push_back(std::move(op));
  }
}

void describe_edges(const Plan& plan, Report& report) {
  std::vector<int> step_of(plan.graph.nodes.size(), -1);
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    for (int node : plan.groups[static_cast<std::size_t>(plan.steps[s].group)].nodes)
      step_of[static_cast<std::size_t>(node)] = static_cast<int>(s);
  }
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    std::vector<int>& from = report.groups[s].reads_from;
    for (int input : plan.groups[static_cast<std::size_t>(plan.steps[s].group)].inputs) {
      const int producer = plan.graph.value(root_of(plan.graph, input)).producer;
      if (producer >= 0) from.push_back(step_of[static_cast<std::size_t>(producer)]);
    }
    std::sort(from.begin(), from.end());
    from.erase(std::unique(from.begin(), from.end()), from.end());
  }
}

void describe_arena(const Plan& plan, Report& report) {
  std::vector<std::int64_t> change(plan.steps.size() + 1, 0);  // of the bytes in use, by step
  for (const ArenaBlock& block : plan.arena) {
    const GraphNode& node = plan.graph.node(plan.graph.value(block.value).producer);
    const auto bytes = static_cast<std::int64_t>(block.bytes);
    report.arena.push_back({static_cast<std::int64_t>(block.offset), bytes, block.first, block.last,
                            std::string(node.op->name), module_of(node)});
    change[static_cast<std::size_t>(block.first)] += bytes;
    change[static_cast<std::size_t>(block.last) + 1] -= bytes;
  }
  std::int64_t live = 0;
  for (std::int64_t delta : change) {
    live += delta;
    report.arena_lower_bound = std::max(report.arena_lower_bound, live);
  }
  report.scratch_bytes = static_cast<std::int64_t>(plan.scratch_bytes);
  report.arena_bytes = static_cast<std::int64_t>(plan.arena_bytes) + report.scratch_bytes;
  report.peak_bytes = report.arena_bytes;
  for (std::int64_t bytes : plan.pooled_bytes) report.peak_bytes += bytes;
}

}  // namespace

std::string place_of(const GraphNode& node) {
  const std::string_view file = node.at.file_name();
  return std::string(file.substr(file.find_last_of('/') + 1)) + ":" + std::to_string(node.at.line());
}

std::int64_t kept_unfused(const Graph& graph) {
  std::vector<Launch> launches;
  for (const GraphNode& node : graph.nodes) {
    if (!node.dead && !node.op->view) launches.push_back({node.inputs, node.outputs, node.phase});
  }
  std::int64_t bytes = 0;
  for (int value : kept_for_backward(graph, launches)) bytes += graph.value(value).bytes();
  return bytes;
}

void describe(Plan& plan) {
  Report& report = *plan.report;
  for (const Step& step : plan.steps) {
    GroupReport group =
        describe_group(plan.graph, plan.groups[static_cast<std::size_t>(step.group)], *step.kernel);
    report.tensor_passes += group.tensor_passes;
    report.unfused_passes += group.unfused_passes;
    report.bytes += group.bytes;
    report.unfused_bytes += group.unfused_bytes;
    report.groups.push_back(std::move(group));
  }
  report.kernels = static_cast<int>(plan.steps.size());
  describe_ops(plan, report);
  describe_edges(plan, report);
  describe_kept(plan, report);
  describe_arena(plan, report);
}

void verify(const Plan& plan) {
  const Graph& graph = plan.graph;
  const std::size_t first_safe = first_safe_step(plan);
  std::vector<bool> written(graph.values.size(), false);
  for (int input : graph.inputs) written[static_cast<std::size_t>(input)] = true;
  for (std::size_t s = 0; s < plan.steps.size(); ++s) {
    const Group& group = plan.groups[static_cast<std::size_t>(plan.steps[s].group)];
    for (int input : group.inputs) {
      FUSETAPE_ASSERT(written[static_cast<std::size_t>(root_of(graph, input))]);
      FUSETAPE_ASSERT(plan.storage[static_cast<std::size_t>(input)].kind != Storage::Kind::none);
    }
    for (int output : group.outputs) {
      const Storage& storage = plan.storage[static_cast<std::size_t>(output)];
      FUSETAPE_ASSERT(storage.kind != Storage::Kind::none);
      FUSETAPE_ASSERT(storage.kind != Storage::Kind::external || s >= first_safe ||
                      !graph.value(graph.inputs[static_cast<std::size_t>(storage.index)]).guarded);
      written[static_cast<std::size_t>(output)] = true;
    }
  }
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const GraphValue& value = graph.values[v];
    if (!value.keep || value.producer < 0) continue;
    FUSETAPE_ASSERT(written[static_cast<std::size_t>(root_of(graph, static_cast<int>(v)))]);
    FUSETAPE_ASSERT(plan.storage[v].kind != Storage::Kind::arena);
  }
}

}  // namespace fusetape::plan
