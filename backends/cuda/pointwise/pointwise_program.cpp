// Which groups generated kernels can run, and what such a kernel is made of.
#include "backends/cuda/pointwise/pointwise_program.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <span>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::backends::cuda::pointwise {

using plan::Graph;
using plan::GraphNode;
using plan::GraphValue;
using plan::Group;

namespace {

// What a thread holds at a time has to fit its registers, and a kernel has to compile in a moment.
constexpr std::size_t most_tensors = 64;
constexpr std::size_t most_nodes = 128;
constexpr int most_registers = 128;  // 32-bit, for operands and results

/// A name for the kernel from those of its ops.
std::string kernel_name(const Group& group) {
  constexpr std::size_t longest = 60;
  std::string name = "pointwise_" + group.name.substr(0, longest);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

PointwiseProgram::Input input_of(const GraphValue& value, int id, const Shape& shape) {
  using Kind = PointwiseProgram::Input::Kind;
  PointwiseProgram::Input input{.value = id, .dtype = value.dtype};
  if (value.elements() == shape.elements() && value.dtype != DType::f64) return input;
  input.kind = value.elements() == 1 ? Kind::scalar : Kind::broadcast;
  input.view = broadcast_view(value.shape, shape);
  return input;
}

/// 16-byte accesses of the narrowest operand or result (f32 or 16 bits), as long as there are registers.
int width_of(const PointwiseProgram& program) {
  std::size_t bytes = 0, narrowest = 4;
  const auto add = [&](DType dtype) {
    bytes += size_of(dtype);
    narrowest = std::min(narrowest, size_of(dtype));
  };
  for (const auto& input : program.inputs) {
    if (input.kind == PointwiseProgram::Input::Kind::packed) add(input.dtype);
  }
  for (const auto& output : program.outputs) add(program.step(output.step).dtype);
  int width = narrowest < 4 ? 8 : 4;
  while (width > 1 && static_cast<int>(bytes) * width > 4 * most_registers) width /= 2;
  return width;
}

/// How the reduced axes of `shape` lie; nothing where they are no neighbours.
std::optional<PointwiseProgram::Sum> sum_over(const Shape& shape, const core::ReduceAttrs& attrs) {
  std::vector<std::int64_t> kept(shape.begin(), shape.end());
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (attrs.has(axis)) kept[static_cast<std::size_t>(axis)] = 1;
  }
  const BroadcastView view = broadcast_view(Shape(std::span<const std::int64_t>(kept)), shape);
  PointwiseProgram::Sum sum;
  bool reduced = false;
  for (int axis = 0; axis < view.rank; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    if (view.stride[a] != 0) {
      (reduced ? sum.inner : sum.outer) *= view.extent[a];
    } else if (reduced) {
      return std::nullopt;
    } else {
      sum.rows = view.extent[a];
      reduced = true;
    }
  }
  return sum;
}

/// Whole packs for each thread, and threads enough for a device.
void share_out(PointwiseProgram& program) {
  constexpr std::int64_t most_threads = 1 << 16, least_rows = 8;
  PointwiseProgram::Sum& sum = *program.sum;
  while ((sum.along_rows() ? sum.rows : sum.inner) % program.width != 0) program.width /= 2;
  if (sum.along_rows()) sum.rows /= program.width;
  const std::int64_t wanted = most_threads / (sum.outer * program.sum_columns());
  sum.parts = std::max<std::int64_t>(1, std::min(wanted, sum.rows / least_rows));
}

}  // namespace

std::string pointwise_refusal(const Graph& graph, const Group& group) {
  std::string reason = refusal_of_nodes(graph, group);
  if (!reason.empty()) return reason;
  if (group.nodes.size() > most_nodes)
    return std::to_string(group.nodes.size()) + " ops, one kernel takes " + std::to_string(most_nodes);
  const std::size_t tensors = group.inputs.size() + group.outputs.size();
  if (tensors > most_tensors)
    return std::to_string(tensors) + " operands and results, one kernel takes " +
           std::to_string(most_tensors);
  return {};
}

std::string sum_refusal(const Graph& graph, const Group& group) {
  const GraphNode& node = graph.node(group.reduction_node());
  const GraphValue& operand = graph.value(node.inputs[0]);
  const std::string name(node.op->name);
  if (!is_floating(operand.dtype) || operand.dtype == DType::f64)
    return name + " of " + std::string(name_of(operand.dtype));
  if (operand.elements() == 0) return name + " of nothing";
  if (!sum_over(operand.shape, node.attrs.as<core::ReduceAttrs>()))
    return name + " over axes that are no neighbours";
  return {};
}

PointwiseProgram make_pointwise_program(const Graph& graph, const Group& group) {
  const Shape& shape = chain_shape(graph, group);
  PointwiseProgram program;
  program.name = kernel_name(group);
  program.count = shape.elements();
  std::map<int, int> found;  // by value, as operands count them
  for (const int input : group.inputs) {
    found[input] = static_cast<int>(program.inputs.size());
    program.inputs.push_back(input_of(graph.value(input), input, shape));
  }
  for (const int id : group.nodes) {
    if (id == group.reduction_node()) continue;
    const GraphNode& node = graph.node(id);
    const int result = node.outputs[0], step = static_cast<int>(program.steps.size());
    PointwiseProgram::Step made{.op = node.op, .attrs = node.attrs, .dtype = graph.value(result).dtype};
    for (const int input : node.inputs) made.operands.push_back(found.at(input));
    found[result] = static_cast<int>(program.inputs.size()) + step;
    program.steps.push_back(std::move(made));
    const bool written = std::find(group.outputs.begin(), group.outputs.end(), result) != group.outputs.end();
    if (written) program.outputs.push_back({.value = result, .step = step});
  }
  for (const int in : dying_inputs(graph, group)) {
    if (program.inputs[static_cast<std::size_t>(found.at(in))].kind != PointwiseProgram::Input::Kind::packed)
      continue;
    for (const auto& output : program.outputs) {
      if (graph.value(in).dtype == program.step(output.step).dtype)
        program.in_place.emplace_back(in, output.value);
    }
  }
  program.width = width_of(program);
  if (group.reduction_node() < 0) return program;
  const GraphNode& node = graph.node(group.reduction_node());
  program.sum = sum_over(shape, node.attrs.as<core::ReduceAttrs>());
  program.sum->value = node.outputs[0];
  program.sum->operand = found.at(node.inputs[0]);
  if (node.is(ops::mean_op)) program.sum->divisor = static_cast<double>(program.sum->rows);
  share_out(program);
  return program;
}

}  // namespace fusetape::backends::cuda::pointwise
