#include <algorithm>

#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"
#include "core/plan/rules/norm_roles.hpp"

/// Batch and group norm with what stands around them, forward and backward.
namespace fusetape::plan {
namespace {

/// The free normalisation that makes `value`, else nullptr. Others may read it, too.
const GraphNode* free_norm(const Cover& cover, int value) {
  for (const core::OpDef* op :
       {&ops::batch_norm_op, &ops::batch_norm_inference_op, &ops::batch_norm_apply_op, &ops::group_norm_op}) {
    const GraphNode* norm = cover.graph.producer_if(value, *op);
    if (norm != nullptr && norm->outputs[0] == value && cover.free(id_of(cover, *norm))) return norm;
  }
  return nullptr;
}

/// The value if anybody beside `reader` wants it, else -1.
int if_wanted_beside(const Graph& graph, int value, int reader) {
  const auto& consumers = graph.value(value).consumers;
  const bool wanted = graph.value(value).keep || std::any_of(consumers.begin(), consumers.end(),
                                                             [&](int other) { return other != reader; });
  return wanted ? value : -1;
}

/// The roles of a normalisation whose y `reader`, of the same group, reads.
NormRoles forward_roles(const Cover& cover, const GraphNode& norm, int reader) {
  NormRoles roles = norm_roles(cover.graph, id_of(cover, norm));
  roles.normed = if_wanted_beside(cover.graph, norm.outputs[0], reader);
  return roles;
}

/// Whether `later` reads what `earlier` makes.
bool reads_from(const Graph& graph, const GraphNode* later, const GraphNode* earlier) {
  return later != nullptr && earlier != nullptr &&
         std::any_of(later->inputs.begin(), later->inputs.end(), [&](int input) {
           const int producer = graph.value(input).producer;
           return producer >= 0 && &graph.node(producer) == earlier;
         });
}

void finish_norm_group(Group& group) { std::sort(group.nodes.begin(), group.nodes.end()); }

NormRoles backward_roles(const Cover& cover, int node) {
  NormRoles roles = norm_roles(cover.graph, node);
  if (roles.dx >= 0) roles.dx = only_if_used(cover.graph, roles.dx);
  return roles;
}

/// y, if anything but its pooling and its ReLU's gradient wants it, else -1.
int wanted_beside_pool(const Graph& graph, int y, int pool) {
  const std::vector<int>& readers = graph.value(y).consumers;
  const bool wanted = graph.value(y).keep || std::any_of(readers.begin(), readers.end(), [&](int reader) {
                        const GraphNode& node = graph.node(reader);
                        return reader != pool && !(node.is(ops::relu_grad_op) && node.inputs[0] != y);
                      });
  return wanted ? y : -1;
}

/// An activation of a norm.
std::optional<Group> match_one_norm(const Cover& cover, int node) {
  const GraphNode& activation = cover.graph.node(node);
  const GraphNode* norm = free_norm(cover, activation.inputs[0]);
  if (norm == nullptr) return std::nullopt;
  Group group;
  group.name = std::string(norm->op->name) + "+" + std::string(activation.op->name);
  group.nodes = {id_of(cover, *norm), node};
  NormForward roles{
      .statistics = statistics_of(*norm), .activation = activation.op, .y = activation.outputs[0]};
  take_numbers(activation, roles.numbers);
  roles.norm[0] = forward_roles(cover, *norm, node);
  group.roles = roles;
  return group;
}

/// y = norm(x) + z, and with both summands normalised the same way: norm₁(x₁) + norm₂(x₂). `node` is the sum,
/// or the activation of it.
std::optional<Group> match_sum_of_norms(const Cover& cover, int node, NearMiss& miss) {
  const Graph& graph = cover.graph;
  const GraphNode& last = graph.node(node);
  const bool ends_in_sum = last.is(ops::add_op);
  const GraphNode* sum = ends_in_sum ? &last : graph.producer_if(last.inputs[0], ops::add_op);
  if (sum == nullptr) return std::nullopt;
  const int add = id_of(cover, *sum), a = sum->inputs[0], b = sum->inputs[1];
  const GraphNode* first = free_norm(cover, a);
  const GraphNode* second = free_norm(cover, b);
  if (!cover.free(add) || a == b || (first == nullptr && second == nullptr)) return std::nullopt;
  if (!same_shape(graph, a, b)) {
    const GraphNode& norm = first != nullptr ? *first : *second;
    const std::vector<int>& readers = graph.value(sum->outputs[0]).consumers;
    const bool told_before = ends_in_sum && std::any_of(readers.begin(), readers.end(), [&](int reader) {
                               return graph.node(reader).op->activation;
                             });
    if (!told_before) miss = broadcast_operand(graph, first != nullptr ? b : a, id_of(cover, norm));
    return std::nullopt;
  }

  Group group;
  NormForward& roles = group.roles.emplace<NormForward>();
  const bool second_waits = reads_from(graph, second, first);  // for statistics or, of all things, its x
  const bool independent = !second_waits && !reads_from(graph, first, second);
  // Not every backend has group norms in groups: what is beside one is better off with a batch norm.
  if (first != nullptr && second != nullptr && first->is(ops::group_norm_op) &&
      !second->is(ops::group_norm_op) && !reads_from(graph, first, second)) {
    first = nullptr;
  }
  const bool alike = first != nullptr && second != nullptr && first->op == second->op;
  if (alike && independent && !first->is(ops::group_norm_op)) {
    roles.norms = 2;
    roles.norm[1] = forward_roles(cover, *second, add);
    group.nodes.push_back(id_of(cover, *second));
    group.name = std::string(second->op->name) + "+";
  } else if (first != nullptr && !second_waits) {
    roles.z = b;
  } else {
    std::swap(first, second);
    roles.z = a;
  }
  group.name += std::string(first->op->name) + "+add";
  roles.norm[0] = forward_roles(cover, *first, add);
  roles.statistics = statistics_of(*first);
  roles.y = last.outputs[0];
  group.nodes.insert(group.nodes.end(), {id_of(cover, *first), add});
  if (!ends_in_sum) {
    group.name += "+" + std::string(last.op->name);
    group.nodes.push_back(node);
    roles.sum = if_wanted_beside(graph, sum->outputs[0], node);
    roles.activation = last.op;
    take_numbers(last, roles.numbers);
  }
  finish_norm_group(group);
  return group;
}

}  // namespace

/// g' = (g [+ g2])·[mask], or another activation's gradient, and the gradients of the one or two batch norms,
/// or of the group norm, that read g'. The mask is computed from x, read from y, or comes as bits; what other
/// gradients read is computed from x, or read.
std::optional<Group> match_norm_gradient(const Cover& cover, int node, Parts parts, NearMiss& miss) {
  const Graph& graph = cover.graph;
  const GraphNode& mask = graph.node(node);
  const int masked = mask.outputs[0];
  Group group;
  NormBackward& roles = group.roles.emplace<NormBackward>();
  roles.norms = 0;
  std::string name;
  const auto& readers = graph.value(masked).consumers;
  const bool of_groups = std::none_of(readers.begin(), readers.end(), [&](int reader) {
    const GraphNode& other = graph.node(reader);
    return other.is(ops::batch_norm_grad_op) || other.is(ops::batch_norm_grad_sums_op);
  });
  bool read_elsewhere = graph.value(masked).keep;
  for (int consumer : readers) {
    const GraphNode& reader = graph.node(consumer);
    const bool sums = reader.is(ops::batch_norm_grad_sums_op);  // g' is then read again, to apply them
    const bool one_group = of_groups && reader.is(ops::group_norm_grad_op) && roles.norms == 0;
    const bool norm = (sums || one_group || reader.is(ops::batch_norm_grad_op)) &&
                      reader.inputs[0] == masked && cover.free(consumer) && reader.inputs[1] != masked &&
                      roles.norms < 2;
    if (norm) {
      roles.norm[roles.norms++] = backward_roles(cover, consumer);
      group.nodes.push_back(consumer);
      name += "+" + std::string(reader.op->name);
    } else {
      read_elsewhere = true;
    }
  }
  if (roles.norms == 0) return std::nullopt;

  roles.g = mask.inputs[0];
  (mask.is(ops::relu_grad_mask_op) ? roles.mask : roles.y) = mask.inputs[1];
  roles.masked = read_elsewhere ? masked : -1;
  if (mask.op->gradient_of != &ops::relu_op && !mask.is(ops::relu_grad_mask_op)) {
    roles.gradient = mask.op;
    take_numbers(mask, roles.numbers);
  }
  if ((parts & with::mask_from_x) != 0) {
    const GraphNode* forward = roles.norms == 1 && (!read_elsewhere || roles.norm[0].dx < 0)
                                   ? norm_before(graph, mask, roles.norm[0])
                                   : nullptr;
    if (forward == nullptr) return std::nullopt;
    roles.recompute = true;
    roles.norm[0].gamma = forward->inputs[1];
    roles.norm[0].beta = forward->inputs[2];
    roles.y = -1;
  }
  group.name = mask.is(ops::relu_grad_mask_op) ? "relu_grad" : std::string(mask.op->name);
  miss = {};
  if (const GraphNode* fork = private_producer(cover, roles.g, ops::add_op, miss)) {
    if (same_shape(graph, fork->inputs[0], fork->inputs[1]) && fork->inputs[0] != fork->inputs[1]) {
      roles.g = fork->inputs[0];
      roles.g2 = fork->inputs[1];
      group.nodes.push_back(id_of(cover, *fork));
      group.name = "add+" + group.name;
    }
  }
  group.name += name;
  group.nodes.push_back(node);
  finish_norm_group(group);
  if (!miss.reason.empty()) miss.reason = "fused without the sum of its two gradients: " + miss.reason;
  return group;
}

/// y = activation(norm(x)), or the sum of a norm and something, with an activation or not.
std::optional<Group> match_batch_norm(const Cover& cover, int node, Parts parts, NearMiss& miss) {
  return (parts & with::add) != 0 ? match_sum_of_norms(cover, node, miss) : match_one_norm(cover, node);
}

/// pooled = max_pool2d(relu(norm(x))). A ReLU's gradient may read y, too: it will rather take its mask from
/// x.
std::optional<Group> match_norm_max_pool(const Cover& cover, int node, Parts, NearMiss& miss) {
  const Graph& graph = cover.graph;
  const GraphNode& pool = graph.node(node);
  const GraphNode* relu = free_producer(cover, pool.inputs[0], ops::relu_op);
  if (relu == nullptr) return std::nullopt;
  std::optional<Group> group = match_one_norm(cover, id_of(cover, *relu));
  if (!group.has_value()) return std::nullopt;
  const NormForward norm = std::get<NormForward>(group->roles);
  if (norm.statistics == Statistics::sample) return std::nullopt;
  for (int value : {norm.norm[0].normed, wanted_beside_pool(graph, norm.y, node)}) {
    if (value < 0) continue;
    miss = {"the output of " + std::string(graph.node(graph.value(value).producer).op->name) +
                " has another reader",
            value};
    return std::nullopt;
  }
  group->roles = NormMaxPool{.norm = norm, .node = node, .pooled = pool.outputs[0], .index = pool.outputs[1]};
  group->nodes.push_back(node);
  group->name += "+max_pool2d";
  finish_norm_group(*group);
  return group;
}

/// Either of them, and the mask of y as bits; y itself only where somebody else wants it.
std::optional<Group> match_batch_norm_relu_mask(const Cover& cover, int node, Parts, NearMiss& miss) {
  const Graph& graph = cover.graph;
  const GraphNode& mask = graph.node(node);
  const int y = mask.inputs[0], relu = graph.value(y).producer;
  if (graph.producer_if(y, ops::relu_op) == nullptr || !cover.free(relu) ||
      graph.node(relu).phase != mask.phase) {
    return std::nullopt;
  }
  std::optional<Group> group = match_sum_of_norms(cover, relu, miss);
  if (!group.has_value()) group = match_one_norm(cover, relu);
  if (!group.has_value()) {
    miss = {};  // the ReLU's own rule tells it
    return std::nullopt;
  }
  auto& roles = std::get<NormForward>(group->roles);
  if (roles.statistics == Statistics::sample) return std::nullopt;
  roles.mask = mask.outputs[0];
  roles.y = if_wanted_beside(graph, y, node);
  group->nodes.push_back(node);
  finish_norm_group(*group);
  return group;
}

}  // namespace fusetape::plan
