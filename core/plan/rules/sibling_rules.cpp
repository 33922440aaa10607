#include <algorithm>

#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"

/// Convolutions of one image, side by side, and the same of their gradients.
namespace fusetape::plan {
namespace {

/// A convolution and what directly follows it.
struct Member {
  std::vector<int> nodes;
  std::string name;
  Convolution roles;
};

/// The free `op` that alone reads `value`, as its first input; nullptr where there is none, or a handle keeps
/// the value.
const GraphNode* only_reader(const Cover& cover, int value, const core::OpDef& op) {
  const GraphValue& read = cover.graph.value(value);
  if (read.keep || read.consumers.size() != 1 || !cover.free(read.consumers[0])) return nullptr;
  const GraphNode& reader = cover.graph.node(read.consumers[0]);
  return reader.is(op) && reader.inputs[0] == value ? &reader : nullptr;
}

void append(const Cover& cover, Member& member, const GraphNode& node, const char* name) {
  member.nodes.push_back(id_of(cover, node));
  member.name += std::string("+") + name;
}

/// relu(conv2d(x, w) + bias), as much of it as there is.
Member forward_member(const Cover& cover, int conv) {
  const GraphNode& node = cover.graph.node(conv);
  Member member{.nodes = {conv}, .name = "conv2d", .roles = convolution_of(node, conv)};
  if (const GraphNode* bias = only_reader(cover, member.roles.y, ops::bias_add_op)) {
    append(cover, member, *bias, "bias");
    member.roles.bias = bias->inputs[1];
    member.roles.y = bias->outputs[0];
  }
  if (const GraphNode* relu = only_reader(cover, member.roles.y, ops::relu_op)) {
    append(cover, member, *relu, "relu");
    member.roles.activation = relu->op;
    member.roles.y = relu->outputs[0];
  }
  return member;
}

/// conv2d_grad_weight(x, g), and its cast to f32 where that is all that is wanted of it.
Member grad_weight_member(const Cover& cover, int conv) {
  const GraphNode& node = cover.graph.node(conv);
  Member member{.nodes = {conv}, .name = "conv2d_grad_weight", .roles = convolution_of(node, conv)};
  const GraphNode* cast = only_reader(cover, member.roles.w, ops::cast_op);
  const auto dtype = [&](int value) { return cover.graph.value(value).dtype; };
  if (cast != nullptr && dtype(member.roles.w) == DType::bf16 && dtype(cast->outputs[0]) == DType::f32) {
    append(cover, member, *cast, "cast");
    member.roles.w = cast->outputs[0];
  }
  return member;
}

/// Whether two nodes are one operation on operands of the same shape, and may run at one time.
bool alike(const Cover& cover, const GraphNode& a, const GraphNode& b) {
  return a.op == b.op && a.attrs == b.attrs && a.phase == b.phase && a.recomputed == b.recomputed &&
         same_shape(cover.graph, a.inputs[0], b.inputs[0]) &&
         same_shape(cover.graph, a.inputs[1], b.inputs[1]);
}

/// Whether a member reads what another makes: a path through others is for the planner to find.
bool one_reads_another(const Cover& cover, const std::vector<Member>& members) {
  const auto made_by_another = [&](const Member& member, int value) {
    const int producer = cover.graph.value(value).producer;
    return std::any_of(members.begin(), members.end(), [&](const Member& other) {
      return &other != &member &&
             std::find(other.nodes.begin(), other.nodes.end(), producer) != other.nodes.end();
    });
  };
  return std::any_of(members.begin(), members.end(), [&](const Member& member) {
    return std::any_of(member.nodes.begin(), member.nodes.end(), [&](int node) {
      const std::vector<int>& inputs = cover.graph.node(node).inputs;
      return std::any_of(inputs.begin(), inputs.end(),
                         [&](int input) { return made_by_another(member, input); });
    });
  });
}

Group group_of(int x, const std::vector<Member>& members) {
  Group group;
  ConvSiblings& siblings = group.roles.emplace<ConvSiblings>();
  for (const Member& member : members) {
    group.name += (group.name.empty() ? "" : "&") + member.name;
    group.nodes.insert(group.nodes.end(), member.nodes.begin(), member.nodes.end());
    siblings.members.push_back(member.roles);
    siblings.members.back().x = x;
  }
  std::sort(group.nodes.begin(), group.nodes.end());
  return group;
}

/// The free readers of the node's first input that are like it, from the node on.
std::optional<Group> match_readers(const Cover& cover, int node, Member (*member_of)(const Cover&, int),
                                   NearMiss& miss) {
  const Graph& graph = cover.graph;
  const GraphNode& first = graph.node(node);
  const int x = first.inputs[0];
  std::vector<Member> members{member_of(cover, node)};
  for (int reader : graph.value(x).consumers) {
    const GraphNode& other = graph.node(reader);
    if (reader <= members.back().roles.node || !cover.free(reader)) continue;
    if (other.inputs[0] != x || !alike(cover, first, other)) continue;
    Member member = member_of(cover, reader);
    if (graph.value(member.roles.w).dtype == graph.value(members[0].roles.w).dtype)
      members.push_back(std::move(member));
  }
  if (members.size() < 2) return std::nullopt;
  if (one_reads_another(cover, members)) {
    miss = {"one of the convolutions reads what another makes", first.outputs[0], members.back().roles.node};
    return std::nullopt;
  }
  return group_of(x, members);
}

Member grad_input_member(const GraphNode& node, int conv) {
  return {.nodes = {conv}, .name = "conv2d_grad_input", .roles = convolution_of(node, conv)};
}

/// The free addition of `value` to another of its shape, where nobody else reads `value`.
const GraphNode* only_addition(const Cover& cover, int value) {
  const GraphValue& read = cover.graph.value(value);
  if (read.keep || read.consumers.size() != 1 || !cover.free(read.consumers[0])) return nullptr;
  const GraphNode& add = cover.graph.node(read.consumers[0]);
  if (!add.is(ops::add_op) || !same_shape(cover.graph, add.inputs[0], add.inputs[1])) return nullptr;
  return &add;
}

}  // namespace

/// Of conv2d or of its weight gradient.
std::optional<Group> match_conv_siblings(const Cover& cover, int node, Parts, NearMiss& miss) {
  const bool forward = cover.graph.node(node).is(ops::conv2d_op);
  return match_readers(cover, node, forward ? forward_member : grad_weight_member, miss);
}

/// The gradients of an image that several like convolutions read, and the additions of one after the other.
std::optional<Group> match_conv_grad_input_siblings(const Cover& cover, int node, Parts, NearMiss&) {
  const Graph& graph = cover.graph;
  const GraphNode& first = graph.node(node);
  std::vector<Member> members{grad_input_member(first, node)};
  std::vector<int> adds;
  int sum = first.outputs[0];
  while (const GraphNode* add = only_addition(cover, sum)) {
    const int other = add->inputs[0] == sum ? add->inputs[1] : add->inputs[0];
    const int conv = graph.value(other).producer;
    if (only_addition(cover, other) != add || conv < 0 || !cover.free(conv)) break;
    if (!alike(cover, first, graph.node(conv))) break;
    members.push_back(grad_input_member(graph.node(conv), conv));
    adds.push_back(id_of(cover, *add));
    sum = add->outputs[0];
  }
  if (members.size() < 2) return std::nullopt;
  Group group = group_of(sum, members);
  group.name += "+add";
  group.nodes.insert(group.nodes.end(), adds.begin(), adds.end());
  std::sort(group.nodes.begin(), group.nodes.end());
  return group;
}

}  // namespace fusetape::plan
