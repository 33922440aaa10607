#include "backends/update_groups.hpp"

#include <algorithm>
#include <string>

#include "core/op_attrs.hpp"
#include "core/op_list.hpp"

namespace fusetape::backends {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

/// Two updates may share a clipped gradient: the first of them writes it.
void add_clipping(const Graph& graph, const Group& group, const std::vector<Update>& before, Update& update) {
  const int clipped = update.in[1];
  const GraphNode& mul = graph.node(graph.value(clipped).producer);
  const bool scale_last = mul.inputs[1] == group.as<plan::Updates>()->scale;
  update.in[1] = mul.inputs[scale_last ? 0 : 1];
  update.scale = group.as<plan::Updates>()->scale;
  const bool wanted = std::find(group.outputs.begin(), group.outputs.end(), clipped) != group.outputs.end();
  const bool written =
      std::any_of(before.begin(), before.end(), [&](const Update& other) { return other.out[1] == clipped; });
  if (wanted && !written) update.out[1] = clipped;
}

std::int64_t readers_of(const std::vector<Update>& updates, int value) {
  std::int64_t readers = 0;
  for (const Update& update : updates) readers += std::count(update.in, update.in + Update::tensors, value);
  return readers;
}

}  // namespace

Support supports_updates(const Graph& graph, const Group& group) {
  if (group.as<plan::Updates>() == nullptr) return {.ok = false, .reason = ""};
  for (const int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    const DType dtype = graph.value(node.inputs[0]).dtype;
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
      return {.ok = false, .reason = "f32 and 16 bits only, not " + std::string(name_of(dtype))};
    }
  }
  return {};
}

std::vector<Update> updates_of(const Graph& graph, const Group& group) {
  std::vector<Update> updates;
  for (const int id : group.nodes) {
    const GraphNode& node = graph.node(id);
    if (node.is(ops::mul_op)) continue;
    Update update{.adam = node.is(ops::adam_update_op), .inputs = node.inputs};
    update.variant =
        update.adam ? node.attrs.as<core::AdamAttrs>().decoupled : node.attrs.as<core::SgdAttrs>().nesterov;
    update.dtype = graph.value(node.inputs[0]).dtype;
    update.elements = graph.value(node.inputs[0]).elements();
    update.in[0] = node.inputs[0];
    update.in[1] = node.inputs[1];
    update.out[0] = node.outputs[0];
    for (std::size_t state = 1; state < node.outputs.size(); ++state) {
      update.in[state + 1] = node.inputs[update.adam ? state + 1 : 4];
      update.out[state + 1] = node.outputs[state];
    }
    if (group.as<plan::Updates>()->scale >= 0) add_clipping(graph, group, updates, update);
    updates.push_back(std::move(update));
  }
  return updates;
}

std::vector<std::pair<int, int>> in_place_of(const std::vector<Update>& updates) {
  std::vector<std::pair<int, int>> pairs;
  for (const Update& update : updates) {
    for (int i = 0; i < Update::tensors; ++i) {
      if (update.out[i] >= 0 && readers_of(updates, update.in[i]) == 1)
        pairs.emplace_back(update.in[i], update.out[i]);
    }
  }
  return pairs;
}

double tensor_passes_of(const std::vector<Update>& updates) {
  const Update& first = updates.front();
  const double passes = first.adam ? 7 : first.in[2] >= 0 ? 5 : 3;
  return first.out[1] >= 0 ? passes + 1 : passes;
}

}  // namespace fusetape::backends
