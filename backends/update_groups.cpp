#include "backends/update_groups.hpp"

#include <algorithm>
#include <string>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

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
  for (const Update& update : updates) readers += std::count(update.in.begin(), update.in.end(), value);
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
    if (!node.op->update) continue;
    Update update{.op = node.op, .variant = static_cast<int>(node.attrs.as<core::UpdateAttrs>().variant)};
    update.dtype = graph.value(node.inputs[0]).dtype;
    update.elements = graph.value(node.inputs[0]).elements();
    update.in.fill(-1);
    update.out.fill(-1);
    const auto tensors = static_cast<std::ptrdiff_t>(node.outputs.size() + 1);
    std::copy_n(node.inputs.begin(), tensors, update.in.begin());
    update.scalars.assign(node.inputs.begin() + tensors, node.inputs.end());
    update.out[0] = node.outputs[0];
    std::copy(node.outputs.begin() + 1, node.outputs.end(), update.out.begin() + 2);
    if (group.as<plan::Updates>()->scale >= 0) add_clipping(graph, group, updates, update);
    updates.push_back(std::move(update));
  }
  return updates;
}

std::vector<std::pair<int, int>> in_place_of(const std::vector<Update>& updates) {
  std::vector<std::pair<int, int>> pairs;
  for (const Update& update : updates) {
    for (std::size_t i = 0; i < update.in.size(); ++i) {
      if (update.out[i] >= 0 && readers_of(updates, update.in[i]) == 1)
        pairs.emplace_back(update.in[i], update.out[i]);
    }
  }
  return pairs;
}

double tensor_passes_of(const std::vector<Update>& updates) {
  const Update& first = updates.front();
  const auto present = [](int value) { return value >= 0; };
  return static_cast<double>(std::count_if(first.in.begin(), first.in.end(), present) +
                             std::count_if(first.out.begin(), first.out.end(), present));
}

}  // namespace fusetape::backends
