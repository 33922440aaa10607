#include "core/plan/rules/group.hpp"

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "core/plan/rules/norm_roles.hpp"

namespace fusetape::plan {
namespace {

double count_whole(const Graph& graph, const std::vector<int>& inputs, const std::vector<int>& outputs) {
  std::int64_t largest = 0;
  for (int id : inputs) largest = std::max(largest, graph.value(id).elements());
  for (int id : outputs) largest = std::max(largest, graph.value(id).elements());
  const auto whole = [&](int id) {
    return graph.value(id).shape.rank() >= 2 || graph.value(id).elements() == largest;
  };
  return static_cast<double>(std::count_if(inputs.begin(), inputs.end(), whole) +
                             std::count_if(outputs.begin(), outputs.end(), whole));
}

/// What a node is to a kernel that runs nothing else.
Roles single_roles(const Graph& graph, int id) {
  const GraphNode& node = graph.node(id);
  const auto &in = node.inputs, &out = node.outputs;
  if (conv_pass(*node.op).has_value()) return convolution_of(node, id);
  if (node.op->pointwise != nullptr) return Chain{};
  if (node.is(ops::matmul_op)) return MatrixProduct{.node = id, .a = in[0], .b = in[1], .y = out[0]};
  if (node.is(ops::max_pool2d_grad_op))
    return MaxPoolGrad{.node = id, .g = in[0], .index = in[1], .dx = out[0]};
  if (node.op->update) return Updates{};
  if (node.op->norm == nullptr) return PlainNode{};
  const NormRoles norm = norm_roles(graph, id);
  if (is_norm_gradient(node)) {
    NormBackward roles{.g = in[0], .sums_given = node.is(ops::batch_norm_grad_apply_op)};
    roles.norm[0] = norm;
    return roles;
  }
  NormForward roles{.statistics = statistics_of(node)};
  roles.norm[0] = norm;
  if (!node.is(ops::batch_norm_statistics_op)) roles.y = out[0];
  return roles;
}

/// Without the results that no one beside the group reads: they need no place.
void drop_unwritten(const Graph& graph, Group& group) {
  const auto drop = [&](int& value) {
    if (value < 0) return;
    const int producer = graph.value(value).producer;
    if (producer < 0) return;
    const bool made_here = std::binary_search(group.nodes.begin(), group.nodes.end(), producer);
    if ((made_here || graph.node(producer).dead) && !group.writes(value)) value = -1;
  };
  std::visit(
      [&](auto& roles) {
        if constexpr (requires { roles.results(drop); }) roles.results(drop);
      },
      group.roles);
}

void find_boundary(const Graph& graph, Group& group) {
  const auto member = [&](int node) {
    return std::binary_search(group.nodes.begin(), group.nodes.end(), node);
  };
  std::unordered_set<int> listed;  // inputs are made outside and outputs inside, so one set serves both
  const auto add_once = [&](std::vector<int>& list, int value) {
    if (listed.insert(value).second) list.push_back(value);
  };
  group.inputs.clear();
  group.outputs.clear();
  const NormRoles* const again = mask_norm(group);
  for (int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (again != nullptr && node.op->gradient_of != nullptr && i == 1) continue;
      const int producer = graph.value(node.inputs[i]).producer;
      if (producer < 0 || !member(producer)) add_once(group.inputs, node.inputs[i]);
    }
    for (int output : node.outputs) {
      const GraphValue& value = graph.value(output);
      const bool read_outside = std::any_of(value.consumers.begin(), value.consumers.end(),
                                            [&](int reader) { return !member(reader); });
      if (value.keep || read_outside) add_once(group.outputs, output);
    }
  }
  if (again == nullptr) return;
  add_once(group.inputs, again->gamma);
  add_once(group.inputs, again->beta);
}

}  // namespace

bool Group::writes(int value) const {
  return std::find(outputs.begin(), outputs.end(), value) != outputs.end();
}

std::optional<ConvPass> conv_pass(const OpDef& op) {
  if (&op == &ops::conv2d_op) return ConvPass::forward;
  if (&op == &ops::conv2d_grad_input_op) return ConvPass::grad_input;
  if (&op == &ops::conv2d_grad_weight_op) return ConvPass::grad_weight;
  return std::nullopt;
}

Convolution convolution_of(const GraphNode& node, int id) {
  const int a = node.inputs[0], b = node.inputs[1], result = node.outputs[0];
  switch (*conv_pass(*node.op)) {
    case ConvPass::grad_input:
      return {.pass = ConvPass::grad_input, .node = id, .x = result, .w = b, .y = a};
    case ConvPass::grad_weight:
      return {.pass = ConvPass::grad_weight, .node = id, .x = a, .w = result, .y = b};
    case ConvPass::forward:
      break;
  }
  return {.node = id, .x = a, .w = b, .y = result};
}

Group single_group(const Graph& graph, int node) {
  Group group;
  group.roles = single_roles(graph, node);
  group.name = graph.node(node).op->name;
  group.nodes = {node};
  close_group(graph, group);
  return group;
}

void close_group(const Graph& graph, Group& group) {
  find_boundary(graph, group);
  drop_unwritten(graph, group);
}

// ---- what roles say of a group ----------------------------------------------------------------------------

const NormRoles* mask_norm(const Group& group) {
  return std::visit(
      [](const auto& roles) -> const NormRoles* {
        if constexpr (requires { roles.mask_norm(); }) return roles.mask_norm();
        return nullptr;
      },
      group.roles);
}

bool always_writes(const Graph& graph, const Group& group, int value) {
  if (group.single()) return true;
  return std::visit(
      [&](const auto& roles) {
        if constexpr (requires { roles.always_writes(graph, value); })
          return roles.always_writes(graph, value);
        return false;
      },
      group.roles);
}

double tensor_passes(const Graph& graph, const Group& group) {
  if (group.single()) return tensor_passes(graph, graph.node(group.nodes[0]));
  return std::visit(
      [&](const auto& roles) {
        if constexpr (requires { roles.passes(graph, group); }) return roles.passes(graph, group);
        return count_whole(graph, group.inputs, group.outputs);
      },
      group.roles);
}

double tensor_passes(const Graph& graph, const GraphNode& node) {
  if (node.is(ops::grad_norm_op)) return 1;  // over all gradients, as an update's are over all parameters
  return count_whole(graph, node.inputs, node.outputs) + node.op->extra_passes;
}

std::int64_t bytes_moved(const Graph& graph, const std::vector<int>& inputs, const std::vector<int>& outputs,
                         double passes) {
  std::int64_t once = 0, largest = 0;
  for (const std::vector<int>* values : {&inputs, &outputs}) {
    for (int id : *values) {
      once += graph.value(id).bytes();
      largest = std::max(largest, graph.value(id).bytes());
    }
  }
  const double again = std::max(0.0, passes - count_whole(graph, inputs, outputs));
  return once + static_cast<std::int64_t>(again * static_cast<double>(largest));
}

double Convolution::passes(const Graph& graph, const Group& group) const {
  const int weights = weights_node >= 0 ? 2 : 1;  // and their gradient
  if (carries()) return count_whole(graph, group.inputs, group.outputs) - weights;
  return z >= 0 ? 3 : 2;
}

double ConvSiblings::passes(const Graph&, const Group&) const {
  return 1 + static_cast<double>(members.size());
}

bool Updates::always_writes(const Graph& graph, int value) const {
  return !graph.node(graph.value(value).producer).is(ops::mul_op);  // a clipped gradient
}

double Updates::passes(const Graph& graph, const Group& group) const {
  return tensor_passes(graph, graph.node(group.nodes.back()));
}

double BiasReluGrad::passes(const Graph&, const Group&) const { return y >= 0 ? 3 : 2; }

/// A mask of bits is no whole tensor.
double NormForward::passes(const Graph&, const Group&) const {
  const int outputs[] = {y, sum, norm[0].normed, norm[1].normed};
  const auto written = std::count_if(std::begin(outputs), std::end(outputs), [](int id) { return id >= 0; });
  const int sources = written > 0 || mask >= 0 ? norms + (z >= 0 ? 1 : 0) : 0;
  const bool reads_twice = statistics == Statistics::batch || statistics == Statistics::sample;
  return (reads_twice ? norms : 0) + sources + static_cast<double>(written);
}

/// Two passes: the sums, then dx. Where g' takes y to make, or is written anyway, the first leaves it for the
/// second.
double NormBackward::passes(const Graph&, const Group&) const {
  const int incoming = g2 >= 0 ? 2 : 1;
  if (y < 0 && masked < 0) return 2 * (incoming + norms) + norms;
  const int first = incoming + (y >= 0 ? 1 : 0) + norms + 1;
  return first + 1 + 2 * norms;
}

}  // namespace fusetape::plan
