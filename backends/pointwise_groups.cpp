#include "backends/pointwise_groups.hpp"

namespace fusetape::backends {

using core::Elements;
using plan::Graph;
using plan::GraphNode;
using plan::GraphValue;
using plan::Group;

namespace {

bool is_byte(DType dtype) { return dtype == DType::boolean || dtype == DType::u8; }
bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

bool operand_fits(Elements elements, DType dtype) {
  if (is_float(dtype)) return true;
  if (elements == Elements::convert && dtype == DType::i64) return true;
  return elements != Elements::floats && is_byte(dtype);
}

bool result_fits(Elements elements, DType from, DType to) {
  switch (elements) {
    case Elements::floats:
      return is_float(to);
    case Elements::compare:
      return to == DType::boolean;
    case Elements::select:
      return is_float(to) || is_byte(to);
    case Elements::convert:
      // An i64 is rounded to f32 on loading, which no other type may see.
      if (from == DType::i64) return to == DType::f32;
      return is_float(to) || to == DType::boolean || (to == DType::u8 && is_byte(from));
  }
  return false;
}

std::string refusal_of_dtypes(const Graph& graph, const GraphNode& node) {
  const std::string name(node.op->name);
  for (std::size_t i = 0; i < tensors_of(node); ++i) {
    const DType dtype = graph.value(node.inputs[i]).dtype;
    if (!operand_fits(node.op->elements, dtype)) return name + " of " + std::string(name_of(dtype));
  }
  const DType from = graph.value(node.inputs[0]).dtype, to = graph.value(node.outputs[0]).dtype;
  return result_fits(node.op->elements, from, to) ? "" : name + " to " + std::string(name_of(to));
}

}  // namespace

std::size_t tensors_of(const GraphNode& node) {
  return node.inputs.size() - static_cast<std::size_t>(node.op->numbers);
}

std::string refusal_of_nodes(const Graph& graph, const Group& group) {
  const Shape& shape = chain_shape(graph, group);
  for (const int id : group.nodes) {
    if (id == group.reduction_node()) continue;
    const GraphNode& node = graph.node(id);
    const std::string name(node.op->name);
    const Shape& result = graph.value(node.outputs[0]).shape;
    if (!(result == shape)) return name + " has shape " + to_string(result) + ", not " + to_string(shape);
    std::string reason = refusal_of_dtypes(graph, node);
    if (!reason.empty()) return reason;
  }
  return {};
}

const Shape& chain_shape(const Graph& graph, const Group& group) {
  const bool reduction_first = group.nodes.front() == group.reduction_node();
  const int id = reduction_first ? group.nodes.back() : group.nodes.front();
  return graph.value(graph.node(id).outputs[0]).shape;
}

BroadcastView broadcast_view(const Shape& from, const Shape& to) {
  BroadcastView view;
  std::array<std::int64_t, Shape::max_rank> strides{};
  std::int64_t elements = 1;
  const int missing = to.rank() - from.rank();
  for (int axis = to.rank() - 1; axis >= missing; --axis) {
    const std::int64_t extent = from[axis - missing];
    strides[static_cast<std::size_t>(axis)] = extent == 1 ? 0 : elements;
    elements *= extent;
  }
  for (int axis = 0; axis < to.rank(); ++axis) {
    const std::int64_t extent = to[axis];
    const std::int64_t stride = strides[static_cast<std::size_t>(axis)];
    if (extent == 1) continue;
    const auto last = static_cast<std::size_t>(view.rank - 1);
    const bool joins = view.rank > 0 && view.stride[last] == stride * extent;
    if (joins) {
      view.extent[last] *= extent;
      view.stride[last] = stride;
    } else {
      view.extent[static_cast<std::size_t>(view.rank)] = extent;
      view.stride[static_cast<std::size_t>(view.rank)] = stride;
      ++view.rank;
    }
  }
  if (view.rank == 0) {
    view.rank = 1;
    view.extent[0] = view.stride[0] = 1;
  }
  return view;
}

std::vector<int> dying_inputs(const Graph& graph, const Group& group) {
  std::vector<int> dying;
  for (const int input : group.inputs) {
    const GraphValue& value = graph.value(input);
    if (!value.keep && (value.producer >= 0 || value.donated)) dying.push_back(input);
  }
  return dying;
}

}  // namespace fusetape::backends
